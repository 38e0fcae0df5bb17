// The workloads of peers on franz-go, with its defaults unless said. Prints what the other sides print.
//
//	peers-go WORKLOAD SERVERS TOPIC RECORDS WARM WINDOW LINGER
//
// LINGER is in milliseconds, or "-" for the default.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	distinct   = 65536
	valueLen   = 100
	warmUp     = 1000
	partitions = 12
	// Of the topic that records are spread over.
	spread = 10000
)

type job struct {
	workload, topic       string
	servers               []string
	records, warm, window int
	linger                []kgo.Opt
	lingerMs              string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers-go:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 7 {
		return fmt.Errorf("takes seven arguments")
	}
	j := job{workload: args[0], servers: strings.Split(args[1], ","), topic: args[2]}
	for i, into := range []*int{&j.records, &j.warm, &j.window} {
		n, err := strconv.Atoi(args[3+i])
		if err != nil {
			return err
		}
		*into = n
	}
	j.lingerMs = "10"
	if args[6] != "-" {
		ms, err := strconv.Atoi(args[6])
		if err != nil {
			return err
		}
		j.lingerMs = args[6]
		j.linger = []kgo.Opt{kgo.ProducerLinger(time.Duration(ms) * time.Millisecond)}
	}
	switch j.workload {
	case "fire", "spread", "awaited", "single":
		return produce(j)
	case "drain":
		return drain(j)
	}
	return fmt.Errorf("no workload %q", j.workload)
}

// Values of 100 bytes, all different.
func values() [][]byte {
	state := uint64(0x9E3779B97F4A7C15)
	all := make([][]byte, distinct)
	for i := range all {
		value := fmt.Appendf(nil, `{"order":%d,"state":"paid","note":"`, i)
		for len(value) < valueLen {
			state ^= state << 13
			state ^= state >> 7
			state ^= state << 17
			value = append(value, 'a'+byte(state%26))
		}
		all[i] = value
	}
	return all
}

func produce(j job) error {
	ctx := context.Background()
	all := values()
	options := []kgo.Opt{kgo.SeedBrokers(j.servers...), kgo.DefaultProduceTopic(j.topic)}
	options = append(options, j.linger...)
	settings := "franz-go, linger.ms " + j.lingerMs
	warmUp := warmUp
	record := func(i int) *kgo.Record {
		return &kgo.Record{Value: all[i%distinct]}
	}
	if j.workload == "spread" {
		options = append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()))
		warmUp = spread
		record = func(i int) *kgo.Record {
			return &kgo.Record{Value: all[i%distinct], Partition: int32(uint64(i) * 0x9E3779B97F4A7C15 >> 32 % spread)}
		}
	}
	if j.workload == "single" {
		options = append(options, kgo.ProducerLinger(0))
		settings = "franz-go, linger.ms 0"
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	acked := 0
	var failed error
	// Promises run one after the other.
	count := func(_ *kgo.Record, err error) {
		if err != nil {
			failed = err
		} else {
			acked++
		}
	}
	for i := range warmUp {
		client.Produce(ctx, record(i), count)
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	acked = 0
	latencies := make([]time.Duration, 0, j.records)
	w := open()
	switch j.workload {
	case "single":
		for i := range j.records {
			begin := time.Now()
			if err := client.ProduceSync(ctx, record(i)).FirstErr(); err != nil {
				return err
			}
			latencies = append(latencies, time.Since(begin))
		}
		acked = j.records
	case "awaited":
		// A slot of the window is free once its record was acknowledged.
		slots := make(chan struct{}, j.window)
		for i := range j.records {
			slots <- struct{}{}
			client.Produce(ctx, record(i), func(record *kgo.Record, err error) {
				count(record, err)
				<-slots
			})
		}
		if err := client.Flush(ctx); err != nil {
			return err
		}
	default:
		for i := range j.records {
			client.Produce(ctx, record(i), count)
		}
		if err := client.Flush(ctx); err != nil {
			return err
		}
	}
	w.close(acked, latencies, settings+", batch 1000012 bytes, 10000 records buffered, acks all, idempotent")
	if failed == nil && acked != j.records {
		failed = fmt.Errorf("%d of %d records were acknowledged", acked, j.records)
	}
	return failed
}

func drain(j job) error {
	ctx := context.Background()
	from := map[int32]kgo.Offset{}
	for partition := range int32(partitions) {
		from[partition] = kgo.NewOffset().AtStart()
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(j.servers...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{j.topic: from}),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	seen, warm := 0, j.warm
	w := open()
	for seen < j.records {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if len(record.Value) == valueLen {
				seen++
			}
		})
		if warm > 0 && seen >= warm {
			seen, warm = 0, 0
			w = open()
		}
	}
	w.close(seen, nil, "franz-go, CRC checked, fetch 50 MiB, 1 MiB per partition, min 1 byte")
	return nil
}

// A measured window.
type window struct {
	wall time.Time
	cpu  time.Duration
}

func usage() syscall.Rusage {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return usage
}

func cpu() time.Duration {
	u := usage()
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func open() window {
	return window{wall: time.Now(), cpu: cpu()}
}

// Go's allocations are not counted.
func (w window) close(records int, latencies []time.Duration, settings string) {
	wall, spent := time.Since(w.wall), cpu()-w.cpu
	slices.Sort(latencies)
	at := func(percent int) float64 {
		if len(latencies) == 0 {
			return 0
		}
		return float64(latencies[len(latencies)*percent/100].Nanoseconds()) / 1e3
	}
	fmt.Println("settings", settings)
	fmt.Println("result", records, spent.Seconds(), wall.Seconds(), 0, usage().Maxrss, at(50), at(99))
}

// Command interop holds franz-go against a cluster: interop BOOTSTRAP_SERVERS
//
// Its exit code is 0 only if every record came back once, in order, and the group looked as it must.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	partitions = 3
	records    = 1000
	limit      = 60 * time.Second
)

type interop struct {
	seeds []string
	run   string
}

type place struct {
	partition int32
	offset    int64
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: interop BOOTSTRAP_SERVERS")
		os.Exit(2)
	}
	i := &interop{strings.Split(os.Args[1], ","), fmt.Sprintf("%x-%d", time.Now().Unix(), os.Getpid())}
	scenarios := []struct {
		name string
		run  func(context.Context) error
	}{
		{"produce and group, none", func(ctx context.Context) error { return i.group(ctx, "none", kgo.NoCompression()) }},
		{"produce and group, lz4", func(ctx context.Context) error { return i.group(ctx, "lz4", kgo.Lz4Compression()) }},
		{"topics", i.topics},
		{"transactions", i.transactions},
	}
	for _, scenario := range scenarios {
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		err := scenario.run(ctx)
		cancel()
		if err != nil {
			fmt.Printf("FAILED %s: %v\n", scenario.name, err)
			os.Exit(1)
		}
		fmt.Printf("ok %s (%.1f s)\n", scenario.name, time.Since(start).Seconds())
	}
}

func (i *interop) client(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(i.seeds...), kgo.ClientID("interop-go")}, options...)...)
}

func (i *interop) member(group, topic string) (*kgo.Client, error) {
	return i.client(
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.HeartbeatInterval(300*time.Millisecond),
	)
}

// produce sends keyed records (idempotence is franz-go's default) and returns where they were written.
func (i *interop) produce(ctx context.Context, topic string, codec kgo.CompressionCodec, from, count int) (map[place]*kgo.Record, error) {
	producer, err := i.client(kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer producer.Close()
	var all []*kgo.Record
	for n := from; n < from+count; n++ {
		record := &kgo.Record{
			Topic:   topic,
			Key:     fmt.Appendf(nil, "key-%d", n%97),
			Value:   fmt.Appendf(nil, "value %d", n),
			Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, n)}},
		}
		if n%50 == 0 {
			record.Value = nil
		}
		all = append(all, record)
	}
	results := producer.ProduceSync(ctx, all...)
	if err := results.FirstErr(); err != nil {
		return nil, fmt.Errorf("produce: %w", err)
	}
	written := make(map[place]*kgo.Record)
	last := make(map[int32]int64)
	// In the order of sending, whatever order the answers came in.
	for _, record := range all {
		at := place{record.Partition, record.Offset}
		if written[at] != nil {
			return nil, fmt.Errorf("%v acknowledged twice", at)
		}
		if previous, known := last[at.partition]; known && at.offset != previous+1 {
			return nil, fmt.Errorf("offset %d after %d in partition %d", at.offset, previous, at.partition)
		}
		last[at.partition] = at.offset
		written[at] = record
	}
	return written, nil
}

// read polls the members until they have returned every written record, in order, once.
func read(ctx context.Context, written map[place]*kgo.Record, members ...*kgo.Client) error {
	last := make(map[int32]int64)
	for left := len(written); left > 0; {
		for _, member := range members {
			poll, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			fetches := member.PollFetches(poll)
			cancel()
			if ctx.Err() != nil {
				return fmt.Errorf("%d records missing", left)
			}
			for _, failure := range fetches.Errors() {
				if !errors.Is(failure.Err, context.DeadlineExceeded) {
					return fmt.Errorf("fetch %s/%d: %w", failure.Topic, failure.Partition, failure.Err)
				}
			}
			for _, record := range fetches.Records() {
				if previous, known := last[record.Partition]; known && record.Offset <= previous {
					return fmt.Errorf("offset %d after %d in partition %d", record.Offset, previous, record.Partition)
				}
				last[record.Partition] = record.Offset
				expected := written[place{record.Partition, record.Offset}]
				if expected == nil {
					return fmt.Errorf("nobody wrote %d@%d", record.Partition, record.Offset)
				}
				same := bytes.Equal(expected.Key, record.Key) && bytes.Equal(expected.Value, record.Value) &&
					(expected.Value == nil) == (record.Value == nil) && len(record.Headers) == 1 &&
					bytes.Equal(expected.Headers[0].Value, record.Headers[0].Value)
				if !same {
					return fmt.Errorf("%d@%d is not what was written", record.Partition, record.Offset)
				}
				left--
			}
		}
	}
	return nil
}

func (i *interop) group(ctx context.Context, name string, codec kgo.CompressionCodec) error {
	topic := "interop-go-" + name + "-" + i.run
	group := topic
	client, err := i.client()
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, partitions, -1, nil, topic); err != nil {
		return fmt.Errorf("create topic: %w", err)
	}

	// Two members share the partitions before the first record is there.
	first, err := i.member(group, topic)
	if err != nil {
		return err
	}
	defer first.Close()
	second, err := i.member(group, topic)
	if err != nil {
		return err
	}
	defer second.Close()
	for {
		described, err := admin.DescribeGroups(ctx, group)
		if err != nil {
			return fmt.Errorf("describe group: %w", err)
		}
		found := described[group]
		var shares []int
		for _, member := range found.Members {
			assigned, _ := member.Assigned.AsConsumer()
			count := 0
			if assigned != nil {
				for _, of := range assigned.Topics {
					count += len(of.Partitions)
				}
			}
			shares = append(shares, count)
		}
		if found.State == "Stable" && len(shares) == 2 && shares[0]+shares[1] == partitions && shares[0] > 0 && shares[1] > 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no balanced group: %s %v", found.State, shares)
		case <-time.After(50 * time.Millisecond):
		}
	}

	written, err := i.produce(ctx, topic, codec, 0, records)
	if err != nil {
		return err
	}
	if err := read(ctx, written, first, second); err != nil {
		return err
	}
	for _, member := range []*kgo.Client{first, second} {
		if err := member.CommitUncommittedOffsets(ctx); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	ends := make(map[int32]int64)
	for at := range written {
		ends[at.partition] = max(ends[at.partition], at.offset+1)
	}
	committed, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return fmt.Errorf("fetch offsets: %w", err)
	}
	logs, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	for partition, end := range ends {
		if found, ok := committed.Lookup(topic, partition); !ok || found.At != end {
			return fmt.Errorf("partition %d committed at %d, not %d", partition, found.At, end)
		}
		if found, ok := logs.Lookup(topic, partition); !ok || found.Offset != end {
			return fmt.Errorf("log of partition %d ends at %d, not %d", partition, found.Offset, end)
		}
	}

	// One leaves: the other goes on where both had committed.
	second.Close()
	more, err := i.produce(ctx, topic, codec, records, 100)
	if err != nil {
		return err
	}
	if err := read(ctx, more, first); err != nil {
		return fmt.Errorf("after a member left: %w", err)
	}
	if err := first.CommitUncommittedOffsets(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	first.Close()
	if _, err := admin.DeleteTopic(ctx, topic); err != nil {
		return fmt.Errorf("delete topic: %w", err)
	}
	return nil
}

func (i *interop) topics(ctx context.Context) error {
	topic := "interop-go-life-" + i.run
	client, err := i.client()
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, 5, -1, nil, topic); err != nil {
		return fmt.Errorf("create topic: %w", err)
	}
	// Other nodes may learn of it later.
	for {
		details, err := admin.ListTopics(ctx, topic)
		if err != nil {
			return fmt.Errorf("list topics: %w", err)
		}
		count := len(details[topic].Partitions)
		if count == 5 {
			break
		}
		if count != 0 {
			return fmt.Errorf("%d partitions instead of 5", count)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := admin.CreateTopic(ctx, 5, -1, nil, topic); !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("second creation: %v", err)
	}
	if _, err := admin.DeleteTopic(ctx, topic); err != nil {
		return fmt.Errorf("delete topic: %w", err)
	}
	return nil
}

// transactions commits and aborts by hand, fences, and copies from one topic to another with the offsets of a group.
func (i *interop) transactions(ctx context.Context) error {
	from, to := "interop-go-from-"+i.run, "interop-go-to-"+i.run
	client, err := i.client()
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for _, topic := range []string{from, to} {
		if _, err := admin.CreateTopic(ctx, partitions, -1, nil, topic); err != nil {
			return fmt.Errorf("create topic: %w", err)
		}
	}
	producer, err := i.client(kgo.TransactionalID(from), kgo.DefaultProduceTopic(from))
	if err != nil {
		return err
	}
	defer producer.Close()
	send := func(producer *kgo.Client, name string) error {
		if err := producer.BeginTransaction(); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		for n := 0; n < 30; n++ {
			record := &kgo.Record{Value: fmt.Appendf(nil, "%s %d", name, n)}
			if err := producer.ProduceSync(ctx, record).FirstErr(); err != nil {
				return fmt.Errorf("produce: %w", err)
			}
		}
		return nil
	}
	for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		name := "aborted"
		if end == kgo.TryCommit {
			name = "committed"
		}
		if err := send(producer, name); err != nil {
			return err
		}
		if err := producer.EndTransaction(ctx, end); err != nil {
			return fmt.Errorf("end: %w", err)
		}
	}
	if err := send(producer, "fenced"); err != nil {
		return err
	}
	second, err := i.client(kgo.TransactionalID(from), kgo.DefaultProduceTopic(from))
	if err != nil {
		return err
	}
	defer second.Close()
	if err := send(second, "committed"); err != nil {
		return err
	}
	if err := second.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("end of the second: %w", err)
	}
	if err := producer.EndTransaction(ctx, kgo.TryCommit); err == nil {
		return errors.New("a fenced producer committed")
	}

	copied, aborted := 0, false
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(i.seeds...),
		kgo.TransactionalID(to),
		kgo.ConsumerGroup(to),
		kgo.ConsumeTopics(from),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequireStableFetchOffsets(),
		kgo.HeartbeatInterval(300*time.Millisecond),
	)
	if err != nil {
		return err
	}
	defer session.Close()
	for copied < 90 {
		fetches := session.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%d of 90 records copied", copied)
		}
		if err := session.Begin(); err != nil {
			return fmt.Errorf("begin of the session: %w", err)
		}
		count := 0
		for _, record := range fetches.Records() {
			if !strings.HasPrefix(string(record.Value), "committed ") {
				return fmt.Errorf("read %q", record.Value)
			}
			if err := session.Client().ProduceSync(ctx, &kgo.Record{Topic: to, Value: record.Value}).FirstErr(); err != nil {
				return fmt.Errorf("copy: %w", err)
			}
			count++
		}
		// The first with records is aborted: they come again.
		try := kgo.TransactionEndTry(aborted || count == 0)
		committed, err := session.End(ctx, try)
		if err != nil {
			return fmt.Errorf("end of the session: %w", err)
		}
		if committed && try == kgo.TryCommit {
			copied += count
		}
		aborted = aborted || count > 0
	}
	if copied != 90 {
		return fmt.Errorf("%d records copied instead of 90", copied)
	}
	reader, err := i.client(
		kgo.ConsumeTopics(to),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return err
	}
	defer reader.Close()
	for found := 0; found < 90; {
		found += reader.PollFetches(ctx).NumRecords()
		if ctx.Err() != nil || found > 90 {
			return fmt.Errorf("%d copies found", found)
		}
	}
	for _, topic := range []string{from, to} {
		if _, err := admin.DeleteTopic(ctx, topic); err != nil {
			return fmt.Errorf("delete topic: %w", err)
		}
	}
	return nil
}

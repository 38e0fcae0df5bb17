// Command golden lets franz-go write and read the records of records.json, in the newest versions and in those of older
// brokers: golden BOOTSTRAP_SERVERS RECORDS
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

type record struct {
	Timestamp int64        `json:"timestamp"`
	Key       *string      `json:"key"`
	Value     *string      `json:"value"`
	Times     int          `json:"times"`
	Headers   [][2]*string `json:"headers"`
}

var codecs = []struct {
	name  string
	codec kgo.CompressionCodec
}{
	{"none", kgo.NoCompression()},
	{"gzip", kgo.GzipCompression()},
	{"snappy", kgo.SnappyCompression()},
	{"lz4", kgo.Lz4Compression()},
	{"zstd", kgo.ZstdCompression()},
}

// Releases whose newest versions are spoken, and the part of the topics' names that says so.
var releases = []struct {
	name     string
	versions *kversion.Versions
}{
	{"", kversion.Stable()},
	{".v3-6", kversion.V3_6_0()},
	{".v2-8", kversion.V2_8_0()},
	{".v2-4", kversion.V2_4_0()},
	{".v2-1", kversion.V2_1_0()},
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// say prints an error: of administration the frames are wanted, errors among them.
func say[T any](_ T, err error) {
	if err != nil {
		fmt.Println(" ", err)
	}
}

func unhex(text *string, times int) []byte {
	if text == nil {
		return nil
	}
	bytes, err := hex.DecodeString(strings.Repeat(*text, max(times, 1)))
	check(err)
	return bytes
}

func client(bootstrap string, versions *kversion.Versions, options ...kgo.Opt) *kgo.Client {
	seeds := kgo.SeedBrokers(strings.Split(bootstrap, ",")...)
	options = append([]kgo.Opt{seeds, kgo.ClientID("golden"), kgo.AllowAutoTopicCreation(),
		kgo.MaxVersions(versions), kgo.MetadataMinAge(50 * time.Millisecond)}, options...)
	made, err := kgo.NewClient(options...)
	check(err)
	return made
}

func write(ctx context.Context, bootstrap string, versions *kversion.Versions, scenarios map[string][]record, kind string, names []string, options ...kgo.Opt) {
	transactional := strings.HasPrefix(kind, ".transaction")
	for _, codec := range codecs {
		producer := client(bootstrap, versions, append(options,
			kgo.ProducerBatchCompression(codec.codec), kgo.ManualFlushing(),
			kgo.ProducerBatchMaxBytes(10_000_000), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
		for _, name := range names {
			if name == "big" && codec.name == "none" {
				continue
			}
			if transactional {
				check(producer.BeginTransaction())
			}
			for _, r := range scenarios[name] {
				record := &kgo.Record{
					Topic: "golden." + name + "." + codec.name + kind, Timestamp: time.UnixMilli(r.Timestamp),
					Key: unhex(r.Key, 1), Value: unhex(r.Value, r.Times),
				}
				for _, header := range r.Headers {
					record.Headers = append(record.Headers, kgo.RecordHeader{Key: string(unhex(header[0], 1)), Value: unhex(header[1], 1)})
				}
				producer.Produce(ctx, record, func(_ *kgo.Record, err error) { check(err) })
			}
			check(producer.Flush(ctx))
			if transactional {
				check(producer.EndTransaction(ctx, kgo.TransactionEndTry(name != "two")))
			}
		}
		producer.Close()
	}
}

func read(ctx context.Context, bootstrap string, versions *kversion.Versions, topic string, options ...kgo.Opt) {
	consumer := client(bootstrap, versions, append(options, kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.HeartbeatInterval(300*time.Millisecond))...)
	for left := 70; left > 0; {
		fetches := consumer.PollFetches(ctx)
		check(fetches.Err())
		left -= fetches.NumRecords()
	}
	consumer.CommitUncommittedOffsets(ctx)
	time.Sleep(700 * time.Millisecond) // heartbeats
	consumer.CloseAllowingRebalance()
}

func share(ctx context.Context, bootstrap string) {
	admin := kadm.NewClient(client(bootstrap, kversion.Stable()))
	defer admin.Close()
	topic := "golden.many.zstd"
	consumer := client(bootstrap, kversion.Stable(), kgo.ShareGroup("golden-share"), kgo.ConsumeTopics(topic))
	writer := client(bootstrap, kversion.Stable())
	// The group begins at the end of the topic, whenever it has begun.
	for seen := 0; seen < 5; {
		check(writer.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("shared")}).FirstErr())
		poll, cancel := context.WithTimeout(ctx, time.Second)
		for _, r := range consumer.PollFetches(poll).Records() {
			seen++
			r.Ack(kgo.AckAccept)
		}
		cancel()
	}
	writer.Close()
	consumer.Close()
	say(admin.DescribeShareGroups(ctx, "golden-share", "golden-none"))
	say(admin.DescribeShareGroupOffsets(ctx, "golden-share"))
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, 0, 7, -1)
	say(admin.AlterShareGroupOffsets(ctx, "golden-share", offsets))
	say(admin.DeleteShareGroupOffsets(ctx, "golden-share", topic))
}

func administer(ctx context.Context, bootstrap string, versions *kversion.Versions, read, group string) {
	raw := client(bootstrap, versions)
	admin := kadm.NewClient(raw)
	defer admin.Close()
	topic, value, user := "golden-admin-"+group, "90000", "alice"
	topics, partition, offsets := kadm.TopicsSet{}, kadm.TopicsSet{}, kadm.Offsets{}
	topics.Add(topic, 0, 1)
	partition.Add(read, 0)
	offsets.AddOffset(read, 0, 5, -1)
	set := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}
	acls := func() *kadm.ACLBuilder {
		return kadm.NewACLs().Topics(topic).Groups(group).Allow("User:alice").AllowHosts("*").Operations(kadm.OpRead).ResourcePatternType(kadm.ACLPatternLiteral)
	}
	var assignments kadm.AlterPartitionAssignmentsReq
	assignments.Assign(topic, 0, []int32{1})
	assignments.CancelAssign(topic, 1)
	epochs := kadm.OffsetForLeaderEpochRequest{read: {0: 0}}

	say(admin.ApiVersions(ctx))
	say(admin.ListBrokers(ctx))
	say(admin.CreateTopics(ctx, 2, 1, map[string]*string{"retention.ms": &value}, topic))
	say(admin.ValidateCreateTopics(ctx, 1, 9, nil, "golden-many-replicas"))
	say(admin.UpdatePartitions(ctx, 3, topic))
	say(admin.ListTopics(ctx))
	say(admin.DescribeTopicConfigs(ctx, topic))
	say(admin.DescribeBrokerConfigs(ctx, 1))
	say(admin.AlterTopicConfigs(ctx, set, topic))
	say(admin.AlterTopicConfigsState(ctx, set, topic))
	say(admin.ListConfigResources(ctx))
	say(admin.CreateACLs(ctx, acls()))
	say(admin.DescribeACLs(ctx, acls()))
	say(admin.DeleteACLs(ctx, acls()))
	say(admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: user, Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "secret"}}))
	say(admin.DescribeUserSCRAMs(ctx))
	say(admin.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: user, Mechanism: kadm.ScramSha256}}, nil))
	entity := kadm.ClientQuotaEntity{{Type: "user", Name: &user}}
	say(admin.AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: 1048576.5}}}}))
	time.Sleep(200 * time.Millisecond)
	say(admin.DescribeClientQuotas(ctx, false, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchName: &user}}))
	say(admin.AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Remove: true}}}}))
	say(admin.ListStartOffsets(ctx, read))
	say(admin.ListEndOffsets(ctx, read))
	say(admin.ListMaxTimestampOffsets(ctx, read))
	say(admin.ListOffsetsAfterMilli(ctx, 1_700_000_000_010, read))
	say(admin.OffsetForLeaderEpoch(ctx, epochs))
	say(admin.ListGroups(ctx))
	say(admin.DescribeGroups(ctx, group, "golden-none"))
	say(admin.DescribeConsumerGroups(ctx, group, "golden-next"))
	say(admin.FetchOffsets(ctx, group))
	admin.FetchManyOffsets(ctx, group, "golden-none")
	say(admin.CommitOffsets(ctx, group, offsets))
	say(admin.DeleteOffsets(ctx, group, partition))
	say(admin.LeaveGroup(ctx, kadm.LeaveGroup(group).InstanceIDs("nobody").Reason("golden")))
	say(admin.DeleteGroups(ctx, group, "golden-none"))
	admin.FindGroupCoordinators(ctx, group, "golden-none")
	admin.FindTxnCoordinators(ctx, "golden-go")
	say(admin.DescribeAllLogDirs(ctx, partition))
	move := kadm.AlterReplicaLogDirsReq{}
	move.Add("/nowhere", partition)
	say(admin.AlterAllReplicaLogDirs(ctx, move))
	say(admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, topics))
	say(admin.AlterPartitionAssignments(ctx, assignments))
	say(admin.ListPartitionReassignments(ctx, nil))
	say(admin.DescribeProducers(ctx, partition))
	say(admin.ListTransactions(ctx, nil, nil))
	say(admin.DescribeTransactions(ctx, "golden-go"))
	say(admin.UpdateFeatures(ctx, true, kadm.FeatureUpdate{Feature: "group.version", MaxVersionLevel: 1, UpgradeType: 1}))
	say(admin.CreateDelegationToken(ctx, kadm.CreateDelegationToken{}))
	say(admin.DescribeDelegationTokens(ctx))
	say(admin.RenewDelegationToken(ctx, []byte("no token"), time.Hour))
	say(admin.ExpireDelegationToken(ctx, []byte("no token"), time.Hour))
	say(admin.DeleteRecords(ctx, offsets))
	say(admin.DeleteTopics(ctx, topic, "golden-none"))
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: golden BOOTSTRAP_SERVERS RECORDS")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	bootstrap := os.Args[1]
	text, err := os.ReadFile(os.Args[2])
	check(err)
	var scenarios map[string][]record
	check(json.Unmarshal(text, &scenarios))
	all := []string{"one", "two", "nulls", "headers", "header-bytes", "bytes", "span", "many", "big", "noise"}

	for _, release := range releases {
		names, kinds := []string{"many"}, []string{"two"}
		if release.name == "" {
			names, kinds = all, []string{"two", "many"}
		}
		write(ctx, bootstrap, release.versions, scenarios, release.name, names, kgo.DisableIdempotentWrite())
		write(ctx, bootstrap, release.versions, scenarios, ".idempotent"+release.name, kinds)
		write(ctx, bootstrap, release.versions, scenarios, ".transaction"+release.name, kinds, kgo.TransactionalID("golden-go"))
		topic := "golden.many.lz4" + release.name
		group := "golden" + release.name
		read(ctx, bootstrap, release.versions, topic, kgo.ConsumerGroup(group))
		read(ctx, bootstrap, release.versions, topic, kgo.ConsumerGroup("golden-static"+release.name), kgo.InstanceID("one"), kgo.Balancers(kgo.RangeBalancer()))
		administer(ctx, bootstrap, release.versions, topic, group)
	}
	read(ctx, bootstrap, kversion.Stable(), "golden.many.gzip", kgo.ConsumerGroup("golden-next"),
		kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer()))
	share(ctx, bootstrap)
}

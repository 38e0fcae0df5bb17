import java.io.File;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.FeatureUpdate;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.RaftVoterEndpoint;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UpdateFeaturesOptions;
import org.apache.kafka.clients.admin.UserScramCredentialDeletion;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionReplica;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Apache Kafka's clients against a broker: the records of records.json in every codec and kind of producer, topics that
 * the broker changes (log append time, recompression, compaction), groups of every type, and administration. What it
 * makes the clients say is worth more here than what it answers: errors of administration are printed and passed over.
 */
public final class Traffic {
    private static final String[] CODECS = {"none", "gzip", "snappy", "lz4", "zstd"};
    private static final Pattern BROKERS = Pattern.compile("golden\\.(compacted\\..*|.*\\.(append|broker|broker-append|transaction))");
    private static final Duration LIMIT = Duration.ofSeconds(30);

    private final String bootstrap;
    private final JsonNode scenarios;
    private final Admin admin;

    private Traffic(String bootstrap, String records) throws Exception {
        this.bootstrap = bootstrap;
        this.scenarios = new ObjectMapper().readTree(new File(records));
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "client.id", "golden"));
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 2) {
            System.err.println("usage: run Traffic BOOTSTRAP_SERVERS RECORDS");
            System.exit(2);
        }
        Traffic traffic = new Traffic(arguments[0], arguments[1]);
        traffic.produce();
        traffic.changedByTheBroker();
        traffic.compacted();
        traffic.transferred();
        traffic.read();
        traffic.cutShort();
        traffic.groups();
        traffic.shared();
        traffic.administer();
        traffic.admin.close();
    }

    private KafkaProducer<byte[], byte[]> producer(Map<String, Object> settings) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", bootstrap, "client.id", "golden",
            "linger.ms", 60_000, "batch.size", 4_000_000, "max.request.size", 10_000_000));
        all.putAll(settings);
        return new KafkaProducer<>(all, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private static byte[] unhex(JsonNode text) {
        return text.isNull() ? null : HexFormat.of().parseHex(text.asText());
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, JsonNode from) {
        JsonNode value = from.get("value");
        byte[] bytes = from.has("times")
            ? HexFormat.of().parseHex(value.asText().repeat(from.get("times").asInt()))
            : unhex(value);
        ProducerRecord<byte[], byte[]> record =
            new ProducerRecord<>(topic, 0, from.get("timestamp").asLong(), unhex(from.get("key")), bytes);
        for (JsonNode header : from.get("headers")) {
            String key = new String(unhex(header.get(0)), java.nio.charset.StandardCharsets.UTF_8);
            record.headers().add(new RecordHeader(key, unhex(header.get(1))));
        }
        return record;
    }

    /** One scenario as one batch, if the producer lets it be. */
    private void write(KafkaProducer<byte[], byte[]> producer, String topic, JsonNode records) throws Exception {
        List<Future<?>> sent = new ArrayList<>();
        for (JsonNode record : records) {
            sent.add(producer.send(record(topic, record)));
        }
        producer.flush();
        for (Future<?> future : sent) {
            future.get();
        }
    }

    private void produce() throws Exception {
        Map<String, Map<String, Object>> kinds = Map.of(
            "", Map.of("enable.idempotence", false),
            ".idempotent", Map.of(),
            ".transaction", Map.of("transactional.id", "golden-java"));
        for (String kind : new String[] {"", ".idempotent", ".transaction"}) {
            for (String codec : CODECS) {
                Map<String, Object> settings = new HashMap<>(kinds.get(kind));
                settings.put("compression.type", codec);
                try (KafkaProducer<byte[], byte[]> producer = producer(settings)) {
                    boolean transactional = kind.equals(".transaction");
                    if (transactional) {
                        producer.initTransactions();
                    }
                    for (Map.Entry<String, JsonNode> scenario : scenarios.properties()) {
                        String name = scenario.getKey();
                        // Java's keys of headers are text; a long plain batch shows nothing.
                        boolean few = !kind.isEmpty() && !Set.of("one", "two", "many").contains(name);
                        if (few || name.equals("header-bytes") || name.equals("big") && codec.equals("none")) {
                            continue;
                        }
                        if (transactional) {
                            producer.beginTransaction();
                        }
                        write(producer, "golden." + name + "." + codec + kind, scenario.getValue());
                        if (transactional && name.equals("two")) {
                            producer.abortTransaction();
                        } else if (transactional) {
                            producer.commitTransaction();
                        }
                    }
                }
            }
        }
    }

    private void create(String topic, Map<String, String> configs) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1).configs(configs))).all().get();
    }

    /** Batches that the broker writes anew: the time of its log, and codecs of its own. */
    private void changedByTheBroker() throws Exception {
        for (String codec : CODECS) {
            create("golden.many." + codec + ".append", Map.of("message.timestamp.type", "LogAppendTime"));
            create("golden.many." + codec + ".broker", Map.of("compression.type", codec.equals("none") ? "uncompressed" : codec));
            create("golden.many." + codec + ".broker-append",
                Map.of("compression.type", codec.equals("none") ? "uncompressed" : codec, "message.timestamp.type", "LogAppendTime"));
            try (KafkaProducer<byte[], byte[]> same = producer(Map.of("compression.type", codec));
                 KafkaProducer<byte[], byte[]> other = producer(Map.of("compression.type", codec.equals("lz4") ? "gzip" : "lz4"))) {
                write(same, "golden.many." + codec + ".append", scenarios.get("many"));
                write(other, "golden.many." + codec + ".broker", scenarios.get("many"));
                write(other, "golden.many." + codec + ".broker-append", scenarios.get("many"));
            }
        }
    }

    /** Gaps where the cleaner took records, tombstones with a delete horizon, markers of transactions. */
    private void compacted() throws Exception {
        for (String codec : CODECS) {
            String topic = "golden.compacted." + codec;
            create(topic, Map.of("cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.001", "segment.ms", "500",
                "delete.retention.ms", "3600000", "min.compaction.lag.ms", "0"));
            try (KafkaProducer<byte[], byte[]> producer =
                     producer(Map.of("compression.type", codec, "transactional.id", "golden-compacted"))) {
                producer.initTransactions();
                for (int round = 0; round < 4; round++) {
                    producer.beginTransaction();
                    for (int i = 0; i < 12; i++) {
                        boolean tombstone = round == 2 && i % 4 == 0;
                        byte[] key = ("key-" + (round == 1 ? i % 5 : i)).getBytes();
                        byte[] value = tombstone ? null : ("round " + round + " value " + i).getBytes();
                        producer.send(new ProducerRecord<>(topic, 0, null, round == 3 ? "last".getBytes() : key, value));
                    }
                    if (round == 1) {
                        producer.flush();
                        producer.abortTransaction();
                    } else {
                        producer.commitTransaction();
                    }
                    // The next round rolls the segment.
                    Thread.sleep(700);
                }
            }
        }
        Thread.sleep(8_000); // for the cleaner
    }

    private void transferred() throws Exception {
        Map<TopicPartition, OffsetAndMetadata> offsets =
            Map.of(new TopicPartition("golden.many.lz4", 0), new OffsetAndMetadata(5, Optional.of(0), "half way"));
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of("group.id", "golden-transfer"));
             KafkaProducer<byte[], byte[]> producer = producer(Map.of("transactional.id", "golden-transfer"))) {
            consumer.subscribe(List.of("golden.many.lz4"));
            poll(consumer, 1);
            producer.initTransactions();
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
            producer.commitTransaction();
        }
    }

    private KafkaConsumer<byte[], byte[]> consumer(Map<String, Object> settings) {
        Map<String, Object> all = new HashMap<>(Map.of("bootstrap.servers", bootstrap, "client.id", "golden",
            "auto.offset.reset", "earliest", "enable.auto.commit", false, "fetch.max.wait.ms", 100,
            "heartbeat.interval.ms", 300, "session.timeout.ms", 6000));
        if ("consumer".equals(settings.get("group.protocol"))) {
            all.remove("heartbeat.interval.ms");
            all.remove("session.timeout.ms");
        }
        all.putAll(settings);
        return new KafkaConsumer<>(all, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static void poll(KafkaConsumer<byte[], byte[]> consumer, int records) {
        long end = System.nanoTime() + LIMIT.toNanos();
        while (records > 0) {
            if (System.nanoTime() > end) {
                throw new AssertionError("no records came");
            }
            records -= consumer.poll(Duration.ofMillis(200)).count();
        }
    }

    /** What the broker gives of the topics in which it wrote something itself, a topic at a time. */
    private void read() throws Exception {
        for (String level : new String[] {"read_uncommitted", "read_committed"}) {
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(Map.of("isolation.level", level))) {
                for (String topic : consumer.listTopics().keySet()) {
                    if (BROKERS.matcher(topic).matches()) {
                        TopicPartition partition = new TopicPartition(topic, 0);
                        consumer.assign(List.of(partition));
                        consumer.seekToBeginning(List.of(partition));
                        long last = consumer.endOffsets(List.of(partition)).get(partition);
                        long end = System.nanoTime() + LIMIT.toNanos();
                        while (consumer.position(partition) < last && System.nanoTime() < end) {
                            consumer.poll(Duration.ofMillis(200));
                        }
                    }
                }
            }
        }
    }

    /** Answers that end inside a batch. */
    private void cutShort() throws Exception {
        for (String codec : CODECS) {
            String topic = "golden.cut." + codec;
            create(topic, Map.of());
            try (KafkaProducer<byte[], byte[]> producer = producer(Map.of("compression.type", codec))) {
                for (int i = 0; i < 6; i++) {
                    write(producer, topic, scenarios.get(i % 2 == 0 ? "many" : "two"));
                }
            }
            try (KafkaConsumer<byte[], byte[]> consumer =
                     consumer(Map.of("max.partition.fetch.bytes", codec.equals("none") ? 4000 : 2000))) {
                TopicPartition partition = new TopicPartition(topic, 0);
                consumer.assign(List.of(partition));
                poll(consumer, 3 * 70 + 3 * 2);
            }
        }
    }

    private void groups() throws Exception {
        for (String protocol : new String[] {"classic", "consumer"}) {
            Map<String, Object> settings = new HashMap<>(Map.of("group.id", "golden-" + protocol, "group.protocol", protocol,
                "group.instance.id", "one", "client.rack", "here"));
            try (KafkaConsumer<byte[], byte[]> one = consumer(settings)) {
                one.subscribe(Pattern.compile("golden\\.many\\.(lz4|zstd)"));
                poll(one, 140);
                settings.remove("group.instance.id");
                try (KafkaConsumer<byte[], byte[]> two = consumer(settings)) {
                    two.subscribe(List.of("golden.many.zstd", "golden.two.lz4"));
                    for (int i = 0; i < 20; i++) {
                        one.poll(Duration.ofMillis(100));
                        two.poll(Duration.ofMillis(100));
                    }
                    one.commitSync();
                    one.committed(one.assignment());
                    one.offsetsForTimes(Map.of(new TopicPartition("golden.many.lz4", 0), 1_700_000_000_010L));
                    done("describe groups", admin.describeConsumerGroups(List.of("golden-" + protocol)).all());
                    done("describe classic groups", admin.describeClassicGroups(List.of("golden-" + protocol)).all());
                }
            }
        }
    }

    private void shared() throws Exception {
        ConfigResource group = new ConfigResource(ConfigResource.Type.GROUP, "golden-share");
        done("configure a group", admin.incrementalAlterConfigs(Map.of(group, List.of(new AlterConfigOp(
            new ConfigEntry("share.auto.offset.reset", "earliest"), AlterConfigOp.OpType.SET)))).all());
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "group.id", "golden-share",
            "share.acknowledgement.mode", "explicit", "client.id", "golden");
        try (KafkaShareConsumer<byte[], byte[]> consumer =
                 new KafkaShareConsumer<>(new HashMap<>(settings), new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of("golden.many.zstd"));
            int left = 70;
            long end = System.nanoTime() + LIMIT.toNanos();
            while (left > 0 && System.nanoTime() < end) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(500));
                for (var record : records) {
                    left--;
                    consumer.acknowledge(record, switch ((int) (record.offset() % 7)) {
                        case 0 -> org.apache.kafka.clients.consumer.AcknowledgeType.RELEASE;
                        case 1 -> org.apache.kafka.clients.consumer.AcknowledgeType.REJECT;
                        default -> org.apache.kafka.clients.consumer.AcknowledgeType.ACCEPT;
                    });
                }
                consumer.commitSync();
            }
            done("describe share groups", admin.describeShareGroups(List.of("golden-share", "golden-none")).all());
        }
        TopicPartition partition = new TopicPartition("golden.many.zstd", 0);
        done("list share offsets", admin.listShareGroupOffsets(Map.of("golden-share", new ListShareGroupOffsetsSpec())).all());
        done("alter share offsets", admin.alterShareGroupOffsets("golden-share", Map.of(partition, 7L)).all());
        done("delete share offsets", admin.deleteShareGroupOffsets("golden-share", Set.of("golden.many.zstd")).all());
        done("delete share groups", admin.deleteShareGroups(List.of("golden-share")).all());
    }

    private static void done(String what, KafkaFuture<?> future) throws Exception {
        try {
            future.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
        } catch (java.util.concurrent.ExecutionException e) {
            System.out.println("  " + what + ": " + e.getCause());
        }
    }

    private void administer() throws Exception {
        String topic = "golden-java-admin";
        TopicPartition partition = new TopicPartition(topic, 0);
        TopicPartition many = new TopicPartition("golden.many.lz4", 0);
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
        create(topic, Map.of("retention.ms", "90000"));
        done("create", admin.createTopics(List.of(new NewTopic(topic, Map.of(0, List.of(1))))).all());
        done("partitions", admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2, List.of(List.of(1))))).all());
        done("describe", admin.describeTopics(TopicCollection.ofTopicNames(List.of(topic, "golden-none"))).allTopicNames());
        Uuid id = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).topicId();
        done("describe ids", admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds());
        done("topics", admin.listTopics().names());
        done("configs", admin.describeConfigs(List.of(resource, broker)).all());
        done("alter configs", admin.incrementalAlterConfigs(Map.of(resource, List.of(
            new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.APPEND),
            new AlterConfigOp(new ConfigEntry("retention.ms", null), AlterConfigOp.OpType.DELETE)))).all());
        done("config resources", admin.listConfigResources().all());
        AclBinding acl = new AclBinding(new ResourcePattern(ResourceType.TOPIC, topic, PatternType.PREFIXED),
            new AccessControlEntry("User:alice", "*", AclOperation.READ, AclPermissionType.ALLOW));
        done("create acls", admin.createAcls(List.of(acl)).all());
        done("acls", admin.describeAcls(AclBindingFilter.ANY).values());
        done("delete acls", admin.deleteAcls(List.of(acl.toFilter())).all());
        done("scram", admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion("alice",
            new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), "secret".getBytes(), "salt".getBytes()))).all());
        done("scram users", admin.describeUserScramCredentials(List.of("alice", "bob")).all());
        done("scram deletion", admin.alterUserScramCredentials(List.of(
            new UserScramCredentialDeletion("alice", ScramMechanism.SCRAM_SHA_512))).all());
        ClientQuotaEntity user = new ClientQuotaEntity(Map.of("user", "alice", "client-id", "golden"));
        done("quotas", admin.alterClientQuotas(List.of(new ClientQuotaAlteration(user,
            List.of(new ClientQuotaAlteration.Op("producer_byte_rate", 1048576.0))))).all());
        Thread.sleep(300);
        done("describe quotas", admin.describeClientQuotas(ClientQuotaFilter.all()).entities());
        done("cluster", admin.describeCluster().nodes());
        done("features", admin.describeFeatures().featureMetadata());
        done("update features", admin.updateFeatures(Map.of("group.version",
            new FeatureUpdate((short) 1, FeatureUpdate.UpgradeType.UPGRADE)), new UpdateFeaturesOptions().validateOnly(true)).all());
        done("quorum", admin.describeMetadataQuorum().quorumInfo());
        done("voters", admin.addRaftVoter(9, Uuid.randomUuid(), Set.of(new RaftVoterEndpoint("CONTROLLER", "127.0.0.1", 1))).all());
        done("voters", admin.removeRaftVoter(9, Uuid.randomUuid()).all());
        done("unregister", admin.unregisterBroker(77).all());
        for (OffsetSpec spec : new OffsetSpec[] {OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.maxTimestamp(),
                OffsetSpec.forTimestamp(1_700_000_000_010L), OffsetSpec.earliestLocal(), OffsetSpec.latestTiered()}) {
            done("offsets", admin.listOffsets(Map.of(many, spec)).all());
        }
        done("groups", admin.listGroups().all());
        done("committed", admin.listConsumerGroupOffsets(Map.of("golden-classic", new ListConsumerGroupOffsetsSpec(),
            "golden-consumer", new ListConsumerGroupOffsetsSpec())).all());
        done("alter offsets", admin.alterConsumerGroupOffsets("golden-classic", Map.of(many, new OffsetAndMetadata(3))).all());
        done("delete offsets", admin.deleteConsumerGroupOffsets("golden-classic", Set.of(many)).all());
        done("delete groups", admin.deleteConsumerGroups(List.of("golden-classic", "golden-none")).all());
        done("log dirs", admin.describeLogDirs(List.of(1)).allDescriptions());
        done("replica dirs", admin.alterReplicaLogDirs(Map.of(new TopicPartitionReplica(topic, 0, 1), "/nowhere")).all());
        done("elect", admin.electLeaders(ElectionType.PREFERRED, Set.of(partition)).all());
        done("reassign", admin.alterPartitionReassignments(Map.of(partition,
            Optional.of(new NewPartitionReassignment(List.of(1))))).all());
        done("reassignments", admin.listPartitionReassignments().reassignments());
        done("producers", admin.describeProducers(List.of(new TopicPartition("golden.many.lz4.transaction", 0))).all());
        done("transactions", admin.listTransactions().all());
        done("transaction", admin.describeTransactions(List.of("golden-java", "golden-none")).all());
        done("fence", admin.fenceProducers(List.of("golden-java")).all());
        done("token", admin.createDelegationToken().delegationToken());
        done("tokens", admin.describeDelegationToken().delegationTokens());
        done("delete records", admin.deleteRecords(Map.of(many, RecordsToDelete.beforeOffset(5))).all());
        done("delete", admin.deleteTopics(List.of(topic)).all());
    }
}

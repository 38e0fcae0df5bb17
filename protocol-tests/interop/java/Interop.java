import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.FeatureUpdate;
import org.apache.kafka.clients.admin.FinalizedVersionRange;
import org.apache.kafka.clients.admin.ListTransactionsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.SupportedVersionRange;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.admin.UpdateFeaturesOptions;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.Utils;

/**
 * Producer, consumer group and admin of Apache Kafka against a cluster; the exit code is 0 only if every record came
 * back once, in order, and the group looked as it must.
 */
public final class Interop {
    private static final int PARTITIONS = 3;
    private static final int RECORDS = 1000;
    private static final Duration LIMIT = Duration.ofSeconds(60);

    private final String bootstrap;
    private final String run = UUID.randomUUID().toString().substring(0, 8);

    private Interop(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 1) {
            System.err.println("usage: Interop BOOTSTRAP_SERVERS");
            System.exit(2);
        }
        Interop interop = new Interop(args[0]);
        for (String codec : List.of("none", "lz4")) {
            timed("produce and group, " + codec, () -> interop.produceAndGroup(codec));
        }
        timed("topics", interop::topics);
        for (short level : interop.transactionVersions()) {
            timed("transactions, version " + level, () -> interop.transactions(level));
        }
    }

    private interface Scenario {
        void run() throws Exception;
    }

    private static void timed(String name, Scenario scenario) throws Exception {
        long start = System.nanoTime();
        try {
            scenario.run();
        } catch (Throwable failure) {
            System.out.println("FAILED " + name + ": " + failure);
            failure.printStackTrace();
            System.exit(1);
        }
        System.out.printf("ok %s (%.1f s)%n", name, (System.nanoTime() - start) / 1e9);
    }

    private static void check(boolean condition, String message) {
        if (!condition) {
            throw new AssertionError(message);
        }
    }

    private static <T> T get(Future<T> future) throws Exception {
        try {
            return future.get(LIMIT.toMillis(), TimeUnit.MILLISECONDS);
        } catch (ExecutionException failure) {
            throw failure.getCause() instanceof Exception cause ? cause : failure;
        }
    }

    private Properties settings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("client.id", "interop-java");
        settings.put("enable.metrics.push", "false");
        return settings;
    }

    private KafkaConsumer<byte[], byte[]> member(String group, String topic) {
        Properties settings = settings();
        settings.put("group.id", group);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("check.crcs", "true");
        settings.put("heartbeat.interval.ms", "300");
        KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.subscribe(List.of(topic));
        return consumer;
    }

    private record Written(TopicPartition partition, long offset, byte[] key, byte[] value) { }

    /** Idempotent, keyed; every record must land in the partition of murmur2, at offsets without holes. */
    private List<Written> produce(String topic, String codec, int from, int count) throws Exception {
        Properties settings = settings();
        settings.put("enable.idempotence", "true");
        settings.put("acks", "all");
        settings.put("compression.type", codec);
        settings.put("linger.ms", "5");
        List<Written> written = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
            List<Future<RecordMetadata>> futures = new ArrayList<>();
            for (int i = from; i < from + count; i++) {
                byte[] key = ("key-" + i % 97).getBytes(StandardCharsets.UTF_8);
                byte[] value = i % 50 == 0 ? null : ("value " + i).getBytes(StandardCharsets.UTF_8);
                ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, null, key, value);
                record.headers().add("i", Integer.toString(i).getBytes(StandardCharsets.UTF_8));
                records.add(record);
                futures.add(producer.send(record));
            }
            producer.flush();
            for (int i = 0; i < count; i++) {
                RecordMetadata metadata = get(futures.get(i));
                byte[] key = records.get(i).key();
                int expected = Utils.toPositive(Utils.murmur2(key)) % PARTITIONS;
                check(metadata.partition() == expected, "record in partition " + metadata.partition());
                TopicPartition partition = new TopicPartition(topic, metadata.partition());
                written.add(new Written(partition, metadata.offset(), key, records.get(i).value()));
            }
        }
        return written;
    }

    private void produceAndGroup(String codec) throws Exception {
        String topic = "interop-java-" + codec + "-" + run;
        String group = "interop-java-" + codec + "-" + run;
        try (Admin admin = Admin.create(settings())) {
            get(admin.createTopics(List.of(new NewTopic(topic, Optional.of(PARTITIONS), Optional.empty()))).all());

            // Two members share the partitions before the first record is there.
            KafkaConsumer<byte[], byte[]> first = member(group, topic);
            KafkaConsumer<byte[], byte[]> second = member(group, topic);
            List<ConsumerRecord<byte[], byte[]>> read = new ArrayList<>();
            long end = System.nanoTime() + LIMIT.toNanos();
            Set<TopicPartition> all = new HashSet<>();
            do {
                check(System.nanoTime() < end, "no balanced assignment");
                first.poll(Duration.ofMillis(50)).forEach(read::add);
                second.poll(Duration.ofMillis(50)).forEach(read::add);
                all.clear();
                all.addAll(first.assignment());
                all.addAll(second.assignment());
            } while (first.assignment().isEmpty() || second.assignment().isEmpty() || all.size() != PARTITIONS
                    || first.assignment().size() + second.assignment().size() != PARTITIONS);

            ConsumerGroupDescription description =
                    get(admin.describeConsumerGroups(List.of(group)).describedGroups().get(group));
            check(description.groupState() == GroupState.STABLE, "group is " + description.groupState());
            check(description.members().size() == 2, description.members().size() + " members");

            List<Written> written = produce(topic, codec, 0, RECORDS);
            Map<TopicPartition, Long> next = contiguous(written, new HashMap<>());
            while (read.size() < RECORDS) {
                check(System.nanoTime() < end, read.size() + " of " + RECORDS + " records read");
                first.poll(Duration.ofMillis(50)).forEach(read::add);
                second.poll(Duration.ofMillis(50)).forEach(read::add);
            }
            compare(written, read);
            first.commitSync(LIMIT);
            second.commitSync(LIMIT);

            Map<TopicPartition, OffsetAndMetadata> committed =
                    get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata());
            for (Map.Entry<TopicPartition, Long> entry : next.entrySet()) {
                OffsetAndMetadata found = committed.get(entry.getKey());
                check(found != null && found.offset() == entry.getValue(), entry + " committed as " + found);
                long latest = get(admin.listOffsets(Map.of(entry.getKey(), OffsetSpec.latest()))
                        .partitionResult(entry.getKey())).offset();
                check(latest == entry.getValue(), "log of " + entry + " ends at " + latest);
            }

            // One leaves: the other goes on where both had committed.
            second.close();
            end = System.nanoTime() + LIMIT.toNanos();
            while (first.assignment().size() != PARTITIONS) {
                check(System.nanoTime() < end, "not all taken over");
                check(first.poll(Duration.ofMillis(50)).isEmpty(), "a committed record came again");
            }
            List<Written> more = produce(topic, codec, RECORDS, 100);
            contiguous(more, next);
            read.clear();
            end = System.nanoTime() + LIMIT.toNanos();
            while (read.size() < more.size()) {
                check(System.nanoTime() < end, read.size() + " of " + more.size() + " records after a member left");
                first.poll(Duration.ofMillis(100)).forEach(read::add);
            }
            compare(more, read);
            first.commitSync(LIMIT);
            first.close();

            get(admin.deleteConsumerGroups(List.of(group)).all());
            get(admin.deleteTopics(List.of(topic)).all());
        }
    }

    /** Offsets of each partition follow each other in the order of sending. */
    private static Map<TopicPartition, Long> contiguous(List<Written> written, Map<TopicPartition, Long> next) {
        for (Written record : written) {
            long expected = next.getOrDefault(record.partition(), 0L);
            check(record.offset() == expected, record.partition() + ": offset " + record.offset() + ", not " + expected);
            next.put(record.partition(), expected + 1);
        }
        return next;
    }

    private static void compare(List<Written> written, List<ConsumerRecord<byte[], byte[]>> read) {
        check(written.size() == read.size(), read.size() + " records read, " + written.size() + " written");
        Map<TopicPartition, List<Written>> expected = new HashMap<>();
        written.forEach(record -> expected.computeIfAbsent(record.partition(), at -> new ArrayList<>()).add(record));
        Map<TopicPartition, Integer> position = new HashMap<>();
        for (ConsumerRecord<byte[], byte[]> record : read) {
            TopicPartition partition = new TopicPartition(record.topic(), record.partition());
            int index = position.merge(partition, 1, Integer::sum) - 1;
            List<Written> of = expected.getOrDefault(partition, List.of());
            check(index < of.size(), "too many records in " + partition);
            Written wanted = of.get(index);
            check(record.offset() == wanted.offset(), partition + ": " + record.offset() + ", not " + wanted.offset());
            check(java.util.Arrays.equals(record.key(), wanted.key()), partition + "@" + record.offset() + ": key");
            check(java.util.Arrays.equals(record.value(), wanted.value()), partition + "@" + record.offset() + ": value");
            check(record.headers().lastHeader("i") != null, partition + "@" + record.offset() + ": header");
        }
    }

    private void topics() throws Exception {
        String topic = "interop-java-life-" + run;
        NewTopic five = new NewTopic(topic, Optional.of(5), Optional.empty());
        try (Admin admin = Admin.create(settings())) {
            check(!get(admin.describeCluster().nodes()).isEmpty(), "no nodes");
            get(admin.createTopics(List.of(five)).all());
            // Other nodes may learn of it later.
            long end = System.nanoTime() + LIMIT.toNanos();
            while (!get(admin.listTopics().names()).contains(topic)) {
                check(System.nanoTime() < end, "not listed");
                Thread.sleep(50);
            }
            check(partitions(admin, topic, end) == 5, "not 5 partitions");
            try {
                get(admin.createTopics(List.of(five)).all());
                throw new AssertionError("a topic was made twice");
            } catch (TopicExistsException expected) {
                get(admin.deleteTopics(List.of(topic)).all());
            }
        }
    }

    private static int partitions(Admin admin, String topic, long end) throws Exception {
        while (true) {
            try {
                return get(admin.describeTopics(List.of(topic)).allTopicNames()).get(topic).partitions().size();
            } catch (UnknownTopicOrPartitionException unknown) {
                check(System.nanoTime() < end, "topic stays unknown");
                Thread.sleep(50);
            }
        }
    }

    // ---- transactions ----

    private static final String FEATURE = "transaction.version";

    /** The versions of transactions that the cluster can be set to; the one that it has where it cannot (before 4.0). */
    private List<Short> transactionVersions() throws Exception {
        try (Admin admin = Admin.create(settings())) {
            SupportedVersionRange range =
                    get(admin.describeFeatures().featureMetadata()).supportedFeatures().get(FEATURE);
            return range == null || range.maxVersion() < 2 ? List.of((short) -1) : List.of((short) 1, (short) 2);
        }
    }

    private void setTransactionVersion(Admin admin, short level) throws Exception {
        FinalizedVersionRange now = get(admin.describeFeatures().featureMetadata()).finalizedFeatures().get(FEATURE);
        short current = now == null ? 0 : now.maxVersionLevel();
        if (level < 0 || level == current) {
            return;
        }
        FeatureUpdate.UpgradeType type =
                level > current ? FeatureUpdate.UpgradeType.UPGRADE : FeatureUpdate.UpgradeType.SAFE_DOWNGRADE;
        get(admin.updateFeatures(Map.of(FEATURE, new FeatureUpdate(level, type)), new UpdateFeaturesOptions()).all());
        long end = System.nanoTime() + LIMIT.toNanos();
        while (get(admin.describeFeatures().featureMetadata()).finalizedFeatures().get(FEATURE).maxVersionLevel() != level) {
            check(System.nanoTime() < end, FEATURE + " is not set");
            Thread.sleep(50);
        }
    }

    private KafkaProducer<byte[], byte[]> transactional(String id, int timeoutMs) {
        Properties settings = settings();
        settings.put("transactional.id", id);
        settings.put("transaction.timeout.ms", Integer.toString(timeoutMs));
        return new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private static void send(KafkaProducer<byte[], byte[]> producer, String topic, String name) {
        for (int i = 0; i < 30; i++) {
            byte[] value = (name + i).getBytes(StandardCharsets.UTF_8);
            producer.send(new ProducerRecord<>(topic, i % PARTITIONS, null, value));
        }
        producer.flush();
    }

    /** The values of a topic from its beginning to its end as this isolation sees it, without their numbers. */
    private Map<String, Integer> values(String topic, String isolation) {
        Properties settings = settings();
        settings.put("isolation.level", isolation);
        settings.put("check.crcs", "true");
        Map<String, Integer> found = new HashMap<>();
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            for (int i = 0; i < PARTITIONS; i++) {
                all.add(new TopicPartition(topic, i));
            }
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all, LIMIT);
            long end = System.nanoTime() + LIMIT.toNanos();
            while (all.stream().anyMatch(partition -> consumer.position(partition, LIMIT) < ends.get(partition))) {
                check(System.nanoTime() < end, "the end is not reached");
                consumer.poll(Duration.ofMillis(100)).forEach(record -> {
                    String value = new String(record.value(), StandardCharsets.UTF_8);
                    found.merge(value.replaceAll("[0-9]", ""), 1, Integer::sum);
                });
            }
        }
        return found;
    }

    private void transactions(short level) throws Exception {
        String topic = "interop-java-transactions-" + level + "-" + run;
        TopicPartition first = new TopicPartition(topic, 0);
        try (Admin admin = Admin.create(settings())) {
            setTransactionVersion(admin, level);
            get(admin.createTopics(List.of(new NewTopic(topic, Optional.of(PARTITIONS), Optional.empty()))).all());
            long end = System.nanoTime() + LIMIT.toNanos();
            check(partitions(admin, topic, end) == PARTITIONS, "partitions");

            KafkaProducer<byte[], byte[]> producer = transactional(topic, 60_000);
            producer.initTransactions();
            producer.beginTransaction();
            send(producer, topic, "committed");
            producer.commitTransaction();
            producer.beginTransaction();
            send(producer, topic, "aborted");
            producer.abortTransaction();

            offsets(admin, producer, topic);

            producer.beginTransaction();
            send(producer, topic, "fenced");
            check(values(topic, "read_committed").equals(Map.of("committed", 30, "output", 30)), "committed values");
            check(values(topic, "read_uncommitted")
                    .equals(Map.of("committed", 30, "aborted", 30, "output", 30, "lost", 30, "fenced", 30)), "all values");
            TransactionDescription open = get(admin.describeTransactions(List.of(topic)).description(topic));
            check(open.state() == TransactionState.ONGOING && open.topicPartitions().size() == PARTITIONS, "" + open);
            boolean listed = get(admin.listTransactions(new ListTransactionsOptions()
                    .filterStates(List.of(TransactionState.ONGOING))).all()).stream()
                    .anyMatch(listing -> listing.transactionalId().equals(topic));
            check(listed, "not listed");

            // Another producer takes over, and the first is told.
            KafkaProducer<byte[], byte[]> second = transactional(topic, 60_000);
            second.initTransactions();
            try {
                producer.commitTransaction();
                throw new AssertionError("a fenced producer committed");
            } catch (ProducerFencedException | InvalidProducerEpochException expected) {
                producer.close(Duration.ZERO);
            }
            second.beginTransaction();
            send(second, topic, "second");
            second.commitTransaction();

            // What hangs is aborted by hand, as kafka-transactions does.
            second.beginTransaction();
            send(second, topic, "hanging");
            ProducerState hanging = get(admin.describeProducers(List.of(first)).partitionResult(first)).activeProducers()
                    .stream().filter(state -> state.currentTransactionStartOffset().isPresent()).findFirst().orElseThrow();
            for (int i = 0; i < PARTITIONS; i++) {
                TopicPartition partition = new TopicPartition(topic, i);
                get(admin.abortTransaction(new AbortTransactionSpec(partition, hanging.producerId(),
                        (short) hanging.producerEpoch(), Math.max(0, hanging.coordinatorEpoch().orElse(0)))).all());
            }
            check(get(admin.describeProducers(List.of(first)).partitionResult(first)).activeProducers().stream()
                    .allMatch(state -> state.currentTransactionStartOffset().isEmpty()), "still open");
            get(admin.fenceProducers(List.of(topic)).all());
            try {
                second.commitTransaction();
                throw new AssertionError("a producer committed that an administrator fenced");
            } catch (KafkaException expected) {
                second.close(Duration.ZERO);
            }

            // One that takes too long is aborted by its coordinator.
            KafkaProducer<byte[], byte[]> slow = transactional(topic + "-slow", 1000);
            slow.initTransactions();
            slow.beginTransaction();
            send(slow, topic, "slow");
            while (get(admin.describeTransactions(List.of(topic + "-slow")).description(topic + "-slow")).state()
                    != TransactionState.COMPLETE_ABORT) {
                check(System.nanoTime() < end, "the slow transaction stays open");
                Thread.sleep(100);
            }
            try {
                slow.commitTransaction();
                throw new AssertionError("a transaction was committed that was aborted");
            } catch (KafkaException expected) {
                slow.close(Duration.ZERO);
            }
            check(values(topic, "read_committed").equals(Map.of("committed", 30, "output", 30, "second", 30)), "in the end");
            get(admin.deleteTopics(List.of(topic)).all());
        }
    }

    /** Offsets of a group, aborted and then committed with what was made of the records. */
    private void offsets(Admin admin, KafkaProducer<byte[], byte[]> producer, String topic) throws Exception {
        Properties settings = settings();
        settings.put("group.id", topic);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("isolation.level", "read_committed");
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(topic));
            Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
            long end = System.nanoTime() + LIMIT.toNanos();
            int count = 0;
            while (count < 30) {
                check(System.nanoTime() < end, count + " committed records");
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) {
                    count++;
                    positions.put(new TopicPartition(topic, record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
            }
            producer.beginTransaction();
            send(producer, topic, "lost");
            producer.sendOffsetsToTransaction(positions, consumer.groupMetadata());
            producer.abortTransaction();
            check(get(admin.listConsumerGroupOffsets(topic).partitionsToOffsetAndMetadata()).isEmpty(), "aborted offsets");
            producer.beginTransaction();
            send(producer, topic, "output");
            producer.sendOffsetsToTransaction(positions, consumer.groupMetadata());
            producer.commitTransaction();
            check(consumer.committed(positions.keySet(), LIMIT).equals(positions), "committed offsets");
        }
    }
}

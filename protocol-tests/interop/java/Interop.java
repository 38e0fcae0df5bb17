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

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
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
}

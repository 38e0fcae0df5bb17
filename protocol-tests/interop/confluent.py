#!/usr/bin/env python3
"""confluent-kafka (librdkafka) against a cluster: python confluent.py BOOTSTRAP_SERVERS

Ends with exit code 0 only if every record came back once, in order, and groups, commits and lookups answered
as they must. Works the same on Apache Kafka and on `carafe broker`.
"""

import sys
import time
import uuid

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition, libversion, version
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 3
RECORDS = 3000
LIMIT = 60.0  # seconds for any one thing


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def wait_for(what, poll):
    """Polls until the answer is not None."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        answer = poll()
        if answer is not None:
            return answer
    raise AssertionError(f"no {what() if callable(what) else what} within {LIMIT:.0f} s")


class Cluster:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.run = uuid.uuid4().hex[:8]
        self.admin = AdminClient(self.settings())

    def settings(self, **more):
        common = {"bootstrap.servers": self.bootstrap, "client.id": "interop", "allow.auto.create.topics": None}
        common.update({key.replace("_", "."): value for key, value in more.items()})
        return {key: value for key, value in common.items() if value is not None}

    def topic(self, name, partitions=PARTITIONS):
        topic = f"interop-{name}-{self.run}"
        futures = self.admin.create_topics([NewTopic(topic, partitions)], operation_timeout=30)
        futures[topic].result(LIMIT)
        return topic

    def producer(self, **more):
        return Producer(self.settings(enable_idempotence=True, linger_ms=5, **more))

    def consumer(self, group, **more):
        more = {"auto_offset_reset": "earliest", "enable_auto_commit": False, **more}
        consumer = Consumer(self.settings(group_id=f"{group}-{self.run}", **more))
        return consumer


def produce(producer, topic, records):
    """Produces (key, value, headers) and returns what was acknowledged as {(partition, offset): record}."""
    acknowledged = {}

    def report(record):
        def on_delivery(error, message):
            check(error is None, f"delivery failed: {error}")
            place = (message.partition(), message.offset())
            check(place not in acknowledged, f"{place} acknowledged twice")
            acknowledged[place] = record

        return on_delivery

    for record in records:
        key, value, headers = record
        while True:
            try:
                producer.produce(topic, key=key, value=value, headers=headers, on_delivery=report(record))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(LIMIT)
    check(left == 0, f"{left} records were not acknowledged")
    check(len(acknowledged) == len(records), f"{len(acknowledged)} of {len(records)} acknowledged")
    return acknowledged


def take(consumer, count, into):
    """Polls until `count` records are in `into`, a list of messages."""

    def poll():
        for message in consumer.consume(500, timeout=0.2):
            if message.error() is None:
                into.append(message)
            else:
                check(message.error().retriable(), f"consume: {message.error()}")
        return True if len(into) >= count else None

    wait_for(lambda: f"{count} records (have {len(into)})", poll)


def compare(messages, acknowledged):
    """Every acknowledged record once, offsets of a partition ascending, contents unchanged."""
    check(len(messages) == len(acknowledged), f"{len(messages)} records consumed, {len(acknowledged)} acknowledged")
    last = {}
    for message in messages:
        partition, offset = message.partition(), message.offset()
        check(offset > last.get(partition, -1), f"offset {offset} after {last.get(partition)} in {partition}")
        last[partition] = offset
        expected = acknowledged.get((partition, offset))
        check(expected is not None, f"nobody wrote {partition}@{offset}")
        key, value, headers = expected
        found = (message.key(), message.value(), message.headers() or [])
        check(found == (key, value, headers), f"{partition}@{offset}: {found} instead of {expected}")


def records(count):
    """Keys in use again, null and empty keys and values, headers: everything a record can be."""
    made = []
    for i in range(count):
        key = None if i % 50 == 0 else b"" if i % 50 == 1 else b"key-%d" % (i % 97)
        value = None if i % 60 == 0 else b"" if i % 60 == 1 else b"%06d " % i + b"x" * (i % 300)
        headers = [("i", b"%d" % i), ("empty", b""), ("null", None), ("i", b"again")] if i % 7 == 0 else []
        made.append((key, value, headers))
    return made


def produce_and_read(cluster):
    """Plain and lz4, idempotent, read by assignment from the beginning."""
    for codec in ("none", "lz4"):
        topic = cluster.topic(f"read-{codec}")
        acknowledged = produce(cluster.producer(compression_type=codec), topic, records(RECORDS))
        partitions = {partition for partition, _ in acknowledged}
        check(partitions == set(range(PARTITIONS)), f"records in partitions {partitions}")
        for partition in range(PARTITIONS):
            offsets = sorted(offset for at, offset in acknowledged if at == partition)
            check(offsets == list(range(len(offsets))), f"offsets of partition {partition} have holes")
        consumer = cluster.consumer("unused", check_crcs=True)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        messages = []
        take(consumer, RECORDS, messages)
        compare(messages, acknowledged)
        for partition in range(PARTITIONS):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=LIMIT)
            check(low == 0, f"low watermark {low}")
            check(high == sum(at == partition for at, _ in acknowledged), f"high watermark {high}")
        consumer.close()


def without_idempotence(cluster):
    """acks all, 1 and 0 without a producer id; 0 last, since a leader that is still being made loses such records."""
    topic = cluster.topic("acks", 1)
    for acks in (-1, 1, 0):
        producer = Producer(cluster.settings(acks=acks, linger_ms=5))
        for i in range(100):
            producer.produce(topic, b"%d" % i, partition=0)
        check(producer.flush(LIMIT) == 0, f"acks {acks}: not flushed")
    consumer = cluster.consumer("unused")
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = []
    take(consumer, 300, messages)
    check([int(message.value()) for message in messages] == list(range(100)) * 3, "acks: order or contents")
    consumer.close()


def offsets_for_times(cluster):
    topic = cluster.topic("times", 1)
    producer = cluster.producer()
    for i in range(10):
        producer.produce(topic, b"%d" % i, partition=0, timestamp=1_000_000 + 1000 * i)
        producer.flush(LIMIT)
    consumer = cluster.consumer("unused")
    for time_ms, expected in ((0, 0), (1_000_000, 0), (1_000_001, 1), (1_009_000, 9), (1_009_001, -1)):
        found = consumer.offsets_for_times([TopicPartition(topic, 0, time_ms)], timeout=LIMIT)[0]
        check(found.error is None and found.offset == expected, f"offset at {time_ms}: {found}")
    consumer.close()


def group(cluster, strategy):
    """Two members share, one leaves, commits are kept and read again."""
    topic = cluster.topic(f"group-{strategy}")
    name = f"group-{strategy}"
    producer = cluster.producer()
    members = []
    assigned = {}
    for index in range(2):
        consumer = cluster.consumer(name, partition_assignment_strategy=strategy, heartbeat_interval_ms=300)
        consumer.subscribe([topic])
        members.append(consumer)

    def shared():
        for index, consumer in enumerate(members):
            message = consumer.poll(0.1)
            check(message is None or message.error() is not None, "a record before any was written")
            assigned[index] = {place.partition for place in consumer.assignment()}
        whole = assigned[0] | assigned[1] == set(range(PARTITIONS)) and not assigned[0] & assigned[1]
        return True if whole and assigned[0] and assigned[1] else None

    wait_for("balanced assignment", shared)
    described = cluster.admin.describe_consumer_groups([f"{name}-{cluster.run}"])
    description = described[f"{name}-{cluster.run}"].result(LIMIT)
    check(len(description.members) == 2, f"{len(description.members)} members")
    check(description.state.name == "STABLE", f"group is {description.state}")

    acknowledged = produce(producer, topic, records(RECORDS))
    messages = []

    def both():
        for consumer in members:
            for message in consumer.consume(500, timeout=0.1):
                check(message.error() is None, f"consume: {message.error()}")
                messages.append(message)
        return True if len(messages) >= RECORDS else None

    wait_for("all records in the group", both)
    compare(messages, acknowledged)
    ends = {}
    for message in messages:
        ends[message.partition()] = message.offset() + 1
    for consumer in members:
        consumer.commit(asynchronous=False)

    # The one that stays takes everything over, from the commits of both.
    members[1].close()

    def taken_over():
        message = members[0].poll(0.1)
        check(message is None or message.error() is not None, "a committed record came again")
        return True if len(members[0].assignment()) == PARTITIONS else None

    wait_for("takeover", taken_over)
    more = produce(producer, topic, records(300))
    messages = []
    take(members[0], 300, messages)
    compare(messages, more)
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    for place in members[0].committed(places, timeout=LIMIT):
        check(place.error is None and place.offset == ends[place.partition], f"committed {place}, wrote {ends}")
    members[0].close()

    # Not committed: delivered again to whoever comes next.
    consumer = cluster.consumer(name, partition_assignment_strategy=strategy)
    consumer.subscribe([topic])
    messages = []
    take(consumer, 300, messages)
    compare(messages, more)
    consumer.commit(asynchronous=False)
    consumer.close()


def unknown_topic(cluster):
    """A topic that nobody made: one error, no hang."""
    consumer = cluster.consumer("unused", allow_auto_create_topics=False)
    name = f"interop-none-{cluster.run}"
    try:
        found = consumer.list_topics(name, timeout=LIMIT).topics[name].error
        check(found is not None and found.code() == KafkaError.UNKNOWN_TOPIC_OR_PART, f"unknown topic: {found}")
    except KafkaException as error:
        check(error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART, f"unknown topic: {error}")
    consumer.close()


def topics(cluster):
    topic = cluster.topic("life", 5)
    metadata = wait_for("new topic", lambda: cluster.admin.list_topics(timeout=LIMIT).topics.get(topic))
    check(len(metadata.partitions) == 5, f"{len(metadata.partitions)} partitions")
    for partition in metadata.partitions.values():
        check(partition.leader in partition.replicas, f"leader {partition.leader} of {partition.replicas}")
    again = cluster.admin.create_topics([NewTopic(topic, 1)])[topic]
    try:
        again.result(LIMIT)
        raise AssertionError("a topic was made twice")
    except KafkaException as error:
        check(error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS, f"second creation: {error}")
    cluster.admin.delete_topics([topic], operation_timeout=30)[topic].result(LIMIT)
    gone = lambda: True if topic not in cluster.admin.list_topics(timeout=LIMIT).topics else None
    wait_for("deletion", gone)


def transactions(cluster):
    topic = cluster.topic("transactions", 1)
    producer = cluster.producer(transactional_id=topic)
    producer.init_transactions(LIMIT)

    def send(name):
        for number in range(10):
            producer.produce(topic, f"{name}-{number}".encode())

    def values(isolation):
        reader = cluster.consumer("transactions-" + isolation, isolation_level=isolation, enable_partition_eof=True)
        reader.assign([TopicPartition(topic, 0, 0)])
        found, end = [], time.monotonic() + LIMIT
        while time.monotonic() < end:
            message = reader.poll(0.1)
            if message is None:
                continue
            if message.error() is not None:
                check(message.error().code() == KafkaError._PARTITION_EOF, message.error())
                reader.close()
                return found
            found.append(message.value().decode())
        raise AssertionError("no end of the partition")

    expect = lambda name: [f"{name}-{number}" for number in range(10)]
    producer.begin_transaction()
    send("committed")
    producer.commit_transaction(LIMIT)
    producer.begin_transaction()
    send("aborted")
    producer.flush(LIMIT)
    producer.abort_transaction(LIMIT)
    check(values("read_committed") == expect("committed"), "committed records")
    check(values("read_uncommitted") == expect("committed") + expect("aborted"), "all records")

    group = cluster.consumer("transactional-offsets")
    group.subscribe([topic])
    wait_for("assignment", lambda: (group.poll(0.1), group.assignment() or None)[1])
    committed = lambda: group.committed([TopicPartition(topic, 0)], timeout=LIMIT)[0].offset
    for name, commit in (("lost", False), ("output", True)):
        producer.begin_transaction()
        send(name)
        offsets = [TopicPartition(topic, 0, 11)]
        producer.send_offsets_to_transaction(offsets, group.consumer_group_metadata(), LIMIT)
        if commit:
            producer.commit_transaction(LIMIT)
        else:
            producer.abort_transaction(LIMIT)
        check((committed() == 11) == commit, f"offset {committed()} committed, {name}")
    group.close()

    # Another one takes over.
    producer.begin_transaction()
    send("fenced")
    producer.flush(LIMIT)
    second = cluster.producer(transactional_id=topic)
    second.init_transactions(LIMIT)
    try:
        producer.commit_transaction(LIMIT)
        raise AssertionError("a fenced producer committed")
    except KafkaException as error:
        check(error.args[0].fatal(), f"fenced: {error}")
    check(values("read_committed") == expect("committed") + expect("output"), "records in the end")


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    print(f"confluent-kafka {version()}, librdkafka {libversion()[0]}, cluster {sys.argv[1]}", flush=True)
    cluster = Cluster(sys.argv[1])
    for name, scenario in (
        ("topics", topics),
        ("unknown topic", unknown_topic),
        ("produce and read", produce_and_read),
        ("acks all, 1, 0", without_idempotence),
        ("offsets for times", offsets_for_times),
        ("group, cooperative-sticky", lambda cluster: group(cluster, "cooperative-sticky")),
        ("transactions", transactions),
        ("group, range", lambda cluster: group(cluster, "range")),
    ):
        start = time.monotonic()
        try:
            scenario(cluster)
        except Exception as error:
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
            raise
        print(f"ok {name} ({time.monotonic() - start:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

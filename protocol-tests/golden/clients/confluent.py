#!/usr/bin/env python3
"""librdkafka writes the records of records.json: confluent.py BOOTSTRAP_SERVERS RECORDS

Each list of records goes to topics of its own, in one batch per codec and kind of producer. What groups and
administration say is recorded from interop/confluent.py; here is what it leaves out.
"""

import json
import sys

from confluent_kafka import (
    Consumer, ConsumerGroupTopicPartitions, ElectionType, IsolationLevel, Producer, TopicCollection, TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding, AclBindingFilter, AclOperation, AclPermissionType, AdminClient, AlterConfigOpType, ConfigEntry,
    ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourcePatternType, ResourceType, ScramCredentialInfo,
    ScramMechanism, UserScramCredentialDeletion, UserScramCredentialUpsertion,
)

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
LIMIT = 60.0  # seconds for any one thing


def unhex(record, name):
    value = record[name]
    return None if value is None else bytes.fromhex(value) * (record.get("times", 1) if name == "value" else 1)


def text_keys(records):
    try:
        return [[(bytes.fromhex(key).decode(), None if value is None else bytes.fromhex(value))
                 for key, value in record["headers"]] for record in records]
    except UnicodeDecodeError:
        return None


def write(bootstrap, scenarios, kind, **settings):
    for codec in CODECS:
        producer = Producer({
            "bootstrap.servers": bootstrap, "client.id": "golden", "compression.type": codec, "linger.ms": 10000,
            "batch.size": 10_000_000, "message.max.bytes": 10_000_000, **settings,
        })
        if "transactional.id" in settings:
            producer.init_transactions(LIMIT)
        for name, records in scenarios.items():
            headers = text_keys(records)
            if headers is None or (name == "big" and codec == "none"):
                continue
            if "transactional.id" in settings:
                producer.begin_transaction()
            for record, pairs in zip(records, headers):
                producer.produce(f"golden.{name}.{codec}{kind}", unhex(record, "value"), unhex(record, "key"),
                                 partition=0, timestamp=record["timestamp"], headers=pairs)
            if "transactional.id" in settings:
                if name == "two":
                    producer.abort_transaction(LIMIT)
                else:
                    producer.commit_transaction(LIMIT)
            elif producer.flush(LIMIT) > 0:
                raise AssertionError("not all was written")


def transfer(bootstrap):
    """Offsets of a group as part of a transaction."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "golden-copy", "auto.offset.reset": "earliest",
                         "enable.auto.commit": False})
    consumer.subscribe(["golden.many.lz4"])
    while not consumer.consume(10, 1.0):
        pass
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "golden-copy"})
    producer.init_transactions(LIMIT)
    producer.begin_transaction()
    producer.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata())
    producer.commit_transaction(LIMIT)
    consumer.close()


def administer(bootstrap):
    admin = AdminClient({"bootstrap.servers": bootstrap})

    def done(futures):
        """Answers count, errors among them: the frames are what is wanted."""
        for future in futures.values() if isinstance(futures, dict) else [futures]:
            try:
                future.result(LIMIT)
            except Exception as error:  # noqa: BLE001
                print(f"  {error}")

    topic = ConfigResource(ConfigResource.Type.TOPIC, "golden-admin")
    partition = TopicPartition("golden-admin", 0)
    done(admin.create_topics([NewTopic("golden-admin", 2, 1, config={"retention.ms": "100000"})]))
    done(admin.create_partitions([NewPartitions("golden-admin", 3)]))
    done(admin.describe_configs([topic]))
    done(admin.alter_configs([ConfigResource(ConfigResource.Type.TOPIC, "golden-admin", {"retention.ms": "90000"})]))
    done(admin.incremental_alter_configs([ConfigResource(
        ConfigResource.Type.TOPIC, "golden-admin",
        incremental_configs=[ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND)])]))
    binding = AclBinding(ResourceType.TOPIC, "golden", ResourcePatternType.LITERAL, "User:alice", "*",
                         AclOperation.READ, AclPermissionType.ALLOW)
    done(admin.create_acls([binding]))
    anything = AclBindingFilter(ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY,
                                AclPermissionType.ANY)
    done(admin.describe_acls(anything))
    done(admin.delete_acls([anything]))
    done(admin.alter_user_scram_credentials([
        UserScramCredentialUpsertion("alice", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), b"secret",
                                     b"salt-of-alice")]))
    done(admin.describe_user_scram_credentials(["alice"]))
    done(admin.alter_user_scram_credentials([UserScramCredentialDeletion("alice", ScramMechanism.SCRAM_SHA_256)]))
    done(admin.describe_cluster(include_authorized_operations=True))
    done(admin.describe_topics(TopicCollection(["golden-admin", "golden-none"]), include_authorized_operations=True))
    done(admin.list_offsets({partition: OffsetSpec.latest()}, isolation_level=IsolationLevel.READ_COMMITTED))
    done(admin.list_consumer_groups())
    done(admin.describe_consumer_groups(["golden-copy", "golden-none"], include_authorized_operations=True))
    done(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("golden-copy")]))
    done(admin.alter_consumer_group_offsets([
        ConsumerGroupTopicPartitions("golden-copy", [TopicPartition("golden.many.lz4", 0, 3)])]))
    done(admin.delete_consumer_groups(["golden-copy", "golden-none"]))
    done(admin.delete_records([TopicPartition("golden.many.none", 0, 5)]))
    done(admin.elect_leaders(ElectionType.PREFERRED, [partition]))
    done(admin.delete_topics(["golden-admin"]))


def main():
    bootstrap, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        scenarios = json.load(file)
    write(bootstrap, scenarios, "")
    some = {name: scenarios[name] for name in ("one", "two", "many")}
    write(bootstrap, some, ".idempotent", **{"enable.idempotence": True})
    write(bootstrap, some, ".transaction", **{"transactional.id": "golden"})
    transfer(bootstrap)
    administer(bootstrap)


main()

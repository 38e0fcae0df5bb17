#!/usr/bin/env python3
"""kafka-python writes and reads the records of records.json: python.py BOOTSTRAP_SERVERS RECORDS"""

import json
import sys

from kafka import KafkaConsumer, KafkaProducer

CODECS = [None, "gzip", "snappy", "lz4", "zstd"]
LIMIT = 60  # seconds for any one thing


def unhex(record, name):
    value = record[name]
    return None if value is None else bytes.fromhex(value) * (record.get("times", 1) if name == "value" else 1)


def text_keys(record):
    return [(bytes.fromhex(key).decode(), None if value is None else bytes.fromhex(value))
            for key, value in record["headers"]]


def write(bootstrap, scenarios, kind, **settings):
    for codec in CODECS:
        producer = KafkaProducer(
            bootstrap_servers=bootstrap, client_id="golden", compression_type=codec, linger_ms=300,
            batch_size=10_000_000, max_request_size=10_000_000, **settings,
        )
        transactional = "transactional_id" in settings
        if transactional:
            producer.init_transactions()
        for name, records in scenarios.items():
            # kafka-python writes no null header value, and no record without key and value.
            if name in ("one", "nulls", "headers", "header-bytes") or (name == "big" and codec is None):
                continue
            topic = f"golden.{name}.{codec or 'none'}{kind}"
            producer.partitions_for(topic)
            if transactional:
                producer.begin_transaction()
            sent = [producer.send(topic, unhex(record, "value"), unhex(record, "key"), headers=text_keys(record),
                                  partition=0, timestamp_ms=record["timestamp"]) for record in records]
            for future in sent:
                future.get(LIMIT)
            if transactional:
                if name == "two":
                    producer.abort_transaction()
                else:
                    producer.commit_transaction()
        producer.close()


def read(bootstrap):
    consumer = KafkaConsumer(
        "golden.many.lz4", "golden.many.zstd", bootstrap_servers=bootstrap, group_id="golden-python",
        auto_offset_reset="earliest", enable_auto_commit=False, consumer_timeout_ms=10_000,
    )
    for count, _ in enumerate(consumer, 1):
        if count == 140:
            break
    consumer.commit()
    partitions = list(consumer.assignment())
    consumer.end_offsets(partitions)
    consumer.beginning_offsets(partitions)
    consumer.offsets_for_times({partition: 1_700_000_000_010 for partition in partitions})
    consumer.topics()
    consumer.close()


def main():
    bootstrap, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        scenarios = json.load(file)
    write(bootstrap, scenarios, "", enable_idempotence=False)
    some = {name: scenarios[name] for name in ("two", "many")}
    write(bootstrap, some, ".idempotent", enable_idempotence=True)
    write(bootstrap, some, ".transaction", transactional_id="golden-python")
    read(bootstrap)


main()

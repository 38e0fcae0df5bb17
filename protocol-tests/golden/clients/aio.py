#!/usr/bin/env python3
"""aiokafka writes and reads the records of records.json: aio.py BOOTSTRAP_SERVERS RECORDS"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

CODECS = [None, "gzip", "snappy", "lz4", "zstd"]


def unhex(record, name):
    value = record[name]
    return None if value is None else bytes.fromhex(value) * (record.get("times", 1) if name == "value" else 1)


def text_keys(record):
    return [(bytes.fromhex(key).decode(), None if value is None else bytes.fromhex(value))
            for key, value in record["headers"]]


async def write(bootstrap, scenarios, kind, **settings):
    for codec in CODECS:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, client_id="golden", compression_type=codec,
                                    max_batch_size=10_000_000, max_request_size=10_000_000, **settings)
        await producer.start()
        transactional = "transactional_id" in settings
        for name, records in scenarios.items():
            if name == "header-bytes" or (name == "big" and codec is None):
                continue
            topic = f"golden.{name}.{codec or 'none'}{kind}"
            await producer.partitions_for(topic)
            if transactional:
                await producer.begin_transaction()
            batch = producer.create_batch()
            for record in records:
                batch.append(timestamp=record["timestamp"], key=unhex(record, "key"), value=unhex(record, "value"),
                             headers=text_keys(record))
            batch.close()
            await (await producer.send_batch(batch, topic, partition=0))
            if transactional:
                if name == "two":
                    await producer.abort_transaction()
                else:
                    await producer.commit_transaction()
        await producer.stop()


async def read(bootstrap):
    consumer = AIOKafkaConsumer("golden.many.lz4", "golden.many.zstd", bootstrap_servers=bootstrap,
                                group_id="golden-aio", auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    left = 140
    while left > 0:
        batches = await asyncio.wait_for(consumer.getmany(timeout_ms=1000), 60)
        left -= sum(len(records) for records in batches.values())
    await consumer.commit()
    partitions = list(consumer.assignment())
    await consumer.end_offsets(partitions)
    await consumer.offsets_for_times({partition: 1_700_000_000_010 for partition in partitions})
    await consumer.committed(TopicPartition("golden.many.lz4", 0))
    await consumer.stop()


async def main():
    bootstrap, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        scenarios = json.load(file)
    await write(bootstrap, scenarios, "", enable_idempotence=False)
    some = {name: scenarios[name] for name in ("one", "two", "many")}
    await write(bootstrap, some, ".idempotent", enable_idempotence=True)
    await write(bootstrap, some, ".transaction", transactional_id="golden-aio")
    await read(bootstrap)


asyncio.run(main())

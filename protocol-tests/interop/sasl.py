#!/usr/bin/env python3
"""confluent-kafka logs in to a listener with SASL: sasl.py BOOTSTRAP_SERVERS, as alice with the password alice-secret.

Exit code 0 only if everything came back as it was written, and a wrong password is refused. Works the same on Apache Kafka
and on `carafe broker`.
"""

import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

COUNT = 500


def config(mechanism, password):
    return {
        "bootstrap.servers": sys.argv[1],
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": mechanism,
        "sasl.username": "alice",
        "sasl.password": password,
        "log_level": 0,
    }


def check(mechanism):
    good = config(mechanism, "alice-secret")
    topic = f"sasl-{mechanism.lower()}-{time.time_ns()}"
    producer = Producer(good)
    for number in range(COUNT):
        producer.produce(topic, str(number), partition=0)
    assert producer.flush(30) == 0, "not everything was written"
    consumer = Consumer(good | {"group.id": topic, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    deadline = time.monotonic() + 30
    while len(found) < COUNT and time.monotonic() < deadline:
        for message in consumer.consume(COUNT, 0.5):
            assert message.error() is None, message.error()
            found.append(int(message.value()))
    consumer.close()
    assert found == list(range(COUNT)), found[:10]
    said = []
    admin = AdminClient(config(mechanism, "guessed") | {"error_cb": lambda error: said.append(error.str())})
    try:
        admin.list_topics(timeout=3)
        raise SystemExit(f"{mechanism}: a wrong password was accepted")
    except KafkaException:
        pass
    admin.poll(0.1)
    assert any("uthentication" in text for text in said), said
    print("ok", mechanism)


for name in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]:
    check(name)

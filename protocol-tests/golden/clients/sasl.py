#!/usr/bin/env python3
"""librdkafka, kafka-python and aiokafka authenticate with PLAIN and SCRAM-SHA-256: sasl.py BOOTSTRAP_SERVERS"""

import asyncio
import sys

from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka.admin import AdminClient
from kafka import KafkaConsumer

USERS = [("PLAIN", "alice", "alice-secret"), ("SCRAM-SHA-256", "bob", "bob-secret")]


async def aiokafka(bootstrap, mechanism, user, password):
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, security_protocol="SASL_PLAINTEXT", client_id="golden",
                                 sasl_mechanism=mechanism, sasl_plain_username=user, sasl_plain_password=password)
    await client.start()
    await client.list_topics()
    await client.close()


def main():
    bootstrap = sys.argv[1]
    for mechanism, user, password in USERS:
        AdminClient({"bootstrap.servers": bootstrap, "security.protocol": "sasl_plaintext", "client.id": "golden",
                     "sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}).list_topics(timeout=30)
        KafkaConsumer(bootstrap_servers=bootstrap, security_protocol="SASL_PLAINTEXT", client_id="golden",
                      sasl_mechanism=mechanism, sasl_plain_username=user, sasl_plain_password=password).topics()
        asyncio.run(aiokafka(bootstrap, mechanism, user, password))


main()

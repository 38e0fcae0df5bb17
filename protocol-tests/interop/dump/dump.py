"""carafe decode beside Kafka's DumpLogSegments: dump.py JARS CARAFE BOOTSTRAP_SERVERS DATA_DIRECTORY...

Produces to a cluster with every codec, in transactions that commit and abort. Then both programs read every log segment
below the cluster's data directories: what carafe prints as JSON, written in DumpLogSegments' words, must be what
DumpLogSegments prints, line for line.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from confluent_kafka import Producer

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
PREFIX = f"dump-{os.getpid()}-"
START = 1_700_000_000_000


def record(number):
    key = None if number % 7 == 0 else f"key-{number % 5}".encode()
    value = None if number % 11 == 0 else f"value {number} ".encode() * (number % 40)
    headers = [(f"header-{at}", b"x" if at % 2 else None) for at in range(number % 4)]
    return {"key": key, "value": value, "headers": headers, "timestamp": START + number * 7 % 1000}


def produce(bootstrap):
    for codec in CODECS:
        settings = {"bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": codec}
        producer = Producer(settings)
        for number in range(400):
            producer.produce(f"{PREFIX}{codec}", **record(number))
            if number % 150 == 149:
                producer.flush(30)
        assert producer.flush(30) == 0, f"{codec}: not all was delivered"
        producer = Producer(settings | {"transactional.id": f"{PREFIX}{codec}"})
        producer.init_transactions(30)
        for number in range(6):
            producer.begin_transaction()
            producer.produce(f"{PREFIX}{codec}", **record(number))
            assert producer.flush(30) == 0, f"{codec}: not all was delivered"
            if number % 3 == 0:
                producer.abort_transaction(30)
            else:
                producer.commit_transaction(30)


def segments(directories, into):
    """Copies of the segments, since brokers go on writing; the metadata log never rests."""
    for directory in directories:
        for file in sorted(Path(directory).glob("*/*.log")):
            if not file.parent.name.startswith("__cluster_metadata"):
                copy = into / str(len(list(into.iterdir()))) / file.parent.name / file.name
                copy.parent.mkdir(parents=True)
                shutil.copyfile(file, copy)
                yield copy


def dumped(jars, files, *arguments):
    """What DumpLogSegments prints, by file."""
    command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-Dfile.encoding=UTF-8",
               "-cp", f"{jars}/*", "org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", *arguments,
               "--files", ",".join(map(str, files))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")
    lines, found = None, {}
    for line in output.stdout.splitlines():
        if line.startswith("Dumping "):
            lines = found.setdefault(Path(line.removeprefix("Dumping ")), [])
        elif not line.startswith("Log starting offset: "):
            lines.append(line)
    return found


def decoded(carafe, file, data):
    """What carafe prints, in the words of DumpLogSegments."""
    output = subprocess.run([carafe, "decode", "--json", file], check=True, stdout=subprocess.PIPE, encoding="utf-8")
    boolean = {True: "true", False: "false"}
    for batch in map(json.loads, output.stdout.splitlines()):
        horizon = batch["deleteHorizonMs"]
        yield (
            "baseOffset: {baseOffset} lastOffset: {lastOffset} count: {count} baseSequence: {baseSequence} "
            "lastSequence: {lastSequence} producerId: {producerId} producerEpoch: {producerEpoch} "
            "partitionLeaderEpoch: {partitionLeaderEpoch} ".format(**batch)
            + f"isTransactional: {boolean[batch['isTransactional']]} isControl: {boolean[batch['isControl']]} "
            + f"deleteHorizonMs: OptionalLong{'.empty' if horizon is None else f'[{horizon}]'} "
            + "position: {position} {timestampType}: {maxTimestamp} size: {size} magic: {magic} "
            "compresscodec: {compressCodec} crc: {crc} ".format(**batch)
            + f"isvalid: {boolean[batch['isValid']]}"
        )
        for entry in batch["records"]:
            yield printed(batch, entry, data)


def printed(batch, entry, data):
    text = "| offset: {offset} {timestampType}: {timestamp}".format(
        **entry, timestampType=batch["timestampType"])
    marker = entry.get("endTxnMarker")
    # The key of a marker is version and type, its value version and epoch.
    key, value = (b"1234", b"123456") if marker else (
        None if entry[part] is None else base64.b64decode(entry[part]) for part in ("key", "value"))
    keys = ",".join(base64.b64decode(header["key"]).decode() for header in entry["headers"])
    size = lambda part: -1 if part is None else len(part)
    text += f" keySize: {size(key)} valueSize: {size(value)} sequence: {entry['sequence']} headerKeys: [{keys}]"
    if marker:
        return text + f" endTxnMarker: {marker} coordinatorEpoch: {entry['coordinatorEpoch']}"
    if data and key is not None:
        text += f" key: {key.decode()}"
    if data and value is not None:
        text += f" payload: {value.decode()}"
    return text


def main():
    jars, carafe, bootstrap, *directories = sys.argv[1:]
    produce(bootstrap)
    with tempfile.TemporaryDirectory() as into:
        files = list(segments(directories, Path(into)))
        own = [file for file in files if file.parent.name.startswith(PREFIX)]
        assert {file.parent.name.removeprefix(PREFIX)[:-2] for file in own} == set(CODECS), own
        others = [file for file in files if file not in own]
        count = 0
        for data, part, arguments in [(True, own, ["--print-data-log"]), (False, others, [])]:
            for file, lines in dumped(jars, part, *arguments).items():
                ours = list(decoded(carafe, file, data))
                for number, (our, their) in enumerate(zip(ours, lines, strict=False)):
                    assert our == their, f"{file.parent.name}, line {number}:\ncarafe {our}\nKafka  {their}"
                assert len(ours) == len(lines), f"{file.parent.name}: {len(ours)} lines, Kafka has {len(lines)}"
                count += len(lines)
    print(f"{len(files)} segments, {count} lines as DumpLogSegments prints them")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The same records in every form that compressors give them: compress.py BATCHES

Takes the uncompressed batch `many.none` of a described file and prints it with its records compressed by libraries that
Kafka's clients use, in forms that the clients themselves do not ask for. What Kafka reads from it stays the same.
"""

import gzip
import io
import json
import struct
import sys
import zlib

import cramjam
import lz4.frame
import zstandard

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
HEADER = 61  # bytes of a batch in front of its records


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def chunks(data, size):
    return [data[at:at + size] for at in range(0, len(data), size)]


def lz4_frame(data, chunk=None, block_linked=False, **options):
    with lz4.frame.LZ4FrameCompressor(auto_flush=True, block_linked=block_linked, **options) as compressor:
        parts = [compressor.begin()] + [compressor.compress(part) for part in chunks(data, chunk or len(data))]
        return b"".join(parts + [compressor.flush()])


def gzip_member(data, **options):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, **options) as file:
        file.write(data)
    return out.getvalue()


def gzip_optional_fields(data):
    """A member with every optional field: extra bytes, name, comment, checksum of the header."""
    header = bytes([0x1F, 0x8B, 8, 0x1E, 0, 0, 0, 0, 0, 255]) + b"\x04\x00ABCD" + b"name\x00" + b"comment\x00"
    header += struct.pack("<H", zlib.crc32(header) & 0xFFFF)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush()
    return header + body + struct.pack("<II", zlib.crc32(data), len(data))


def xerial(data, size):
    blocks = [bytes(cramjam.snappy.compress_raw(part)) for part in chunks(data, size)]
    return XERIAL + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


def zstd_stream(data, **options):
    out = io.BytesIO()
    with zstandard.ZstdCompressor(**options).stream_writer(out, closefd=False) as writer:
        writer.write(data)
    return out.getvalue()


def forms(data):
    half = len(data) // 2
    zstd = zstandard.ZstdCompressor()
    skippable = struct.pack("<II", 0x184D2A53, 5) + b"12345"
    yield "lz4.content-size", lz4.frame.compress(data, store_size=True, block_linked=False)
    yield "lz4.content-checksum", lz4_frame(data, content_checksum=True)
    yield "lz4.block-checksums", lz4_frame(data, 700, block_checksum=True)
    yield "lz4.linked-blocks", lz4_frame(data, 700, block_linked=True)
    yield "lz4.blocks-of-4-MiB", lz4_frame(data, block_size=lz4.frame.BLOCKSIZE_MAX4MB, compression_level=16)
    yield "lz4.two-frames", lz4_frame(data[:half]) + lz4_frame(data[half:])
    yield "lz4.skippable-frame", skippable + lz4_frame(data)
    yield "gzip.stored", gzip_member(data, compresslevel=0)
    yield "gzip.name", gzip_member(data, filename="records")
    yield "gzip.optional-fields", gzip_optional_fields(data)
    yield "gzip.two-members", gzip_member(data[:half]) + gzip_member(data[half:])
    yield "snappy.raw", bytes(cramjam.snappy.compress_raw(data))
    yield "snappy.many-blocks", xerial(data, 100)
    yield "snappy.two-streams", xerial(data[:half], 32768) + xerial(data[half:], 32768)
    yield "zstd.content-size", zstd.compress(data)
    yield "zstd.no-content-size", zstd_stream(data)
    yield "zstd.checksum", zstd_stream(data, write_checksum=True)
    yield "zstd.two-frames", zstd.compress(data[:half]) + zstd_stream(data[half:])
    yield "zstd.skippable-frame", skippable + zstd.compress(data)
    yield "zstd.level-22", zstandard.ZstdCompressor(level=22).compress(data)
    yield "zstd.stored", zstandard.ZstdCompressor(level=-50).compress(data)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        plain, described = next(line.split(" ", 2)[1:] for line in file if line.startswith("many.none "))
    plain = bytes.fromhex(plain)
    print("# lz4 4.4.5, zstandard 0.25.0, cramjam 2.14.0 (snap), Python's zlib around a batch of kafka-clients")
    for name, body in forms(plain[HEADER:]):
        codec = name.split(".")[0]
        attributes = struct.pack(">h", struct.unpack(">h", plain[21:23])[0] | CODECS[codec])
        summed = attributes + plain[23:HEADER] + body
        batch = plain[:8] + struct.pack(">i", len(summed) + 9) + plain[12:17] + struct.pack(">I", crc32c(summed)) + summed
        [reading] = json.loads(described)
        reading.update(codec=codec, sizeInBytes=len(batch))
        print(name, batch.hex(), json.dumps([reading], separators=(",", ":")))


main()

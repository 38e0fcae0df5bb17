#!/usr/bin/env bash
# kcat against a cluster: kcat.sh BOOTSTRAP_SERVERS
# Exit code 0 only if everything came back as it was written. Works the same on Apache Kafka and on `carafe broker`.
set -euo pipefail

bootstrap=${1:?usage: kcat.sh BOOTSTRAP_SERVERS}
run=$(date +%s)-$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# kcat, and no more than a minute of it.
kcat() { timeout 60 kcat -b "$bootstrap" -m 10 "$@"; }

same() { # NAME EXPECTED FOUND: files must be equal
    if ! diff -u "$2" "$3" >"$work/diff"; then
        echo "FAILED $1"
        head -40 "$work/diff"
        exit 1
    fi
    echo "ok $1"
}

# Keys, values and headers in one partition; offsets from 0.
topic=kcat-$run
seq 1 2000 | sed 's/.*/key-&:value &/' >"$work/in"
kcat -P -t "$topic" -p 0 -K: -H a=b -H c=d -X enable.idempotence=true -l "$work/in"
sed 's/:/ /' "$work/in" | awk '{ print NR - 1, $0, "a=b,c=d" }' >"$work/expected"
kcat -C -t "$topic" -p 0 -o beginning -e -q -f '%o %k %s %h\n' >"$work/found"
same "keys, values, headers" "$work/expected" "$work/found"

# From an offset, from the end, a bounded count.
sed -n '1501,$p' "$work/expected" >"$work/part"
kcat -C -t "$topic" -p 0 -o 1500 -e -q -f '%o %k %s %h\n' >"$work/found"
same "from offset 1500" "$work/part" "$work/found"
tail -7 "$work/expected" >"$work/part"
kcat -C -t "$topic" -p 0 -o -7 -e -q -f '%o %k %s %h\n' >"$work/found"
same "the last 7" "$work/part" "$work/found"
head -10 "$work/expected" >"$work/part"
kcat -C -t "$topic" -p 0 -o beginning -c 10 -q -f '%o %k %s %h\n' >"$work/found"
same "the first 10" "$work/part" "$work/found"

# LZ4, large values, several batches.
topic=kcat-lz4-$run
seq 1 3000 | awk '{ printf "%05d ", $1; for (i = 0; i < 60; i++) printf "%d", ($1 * i) % 97; print "" }' >"$work/in"
kcat -P -t "$topic" -p 0 -z lz4 -X acks=all -l "$work/in"
kcat -C -t "$topic" -p 0 -o beginning -e -q -X check.crcs=true >"$work/found"
same "lz4" "$work/in" "$work/found"

# Null and empty, told apart by their lengths.
topic=kcat-null-$run
printf 'k1:v1\nk2:\n:v3\n' | kcat -P -t "$topic" -p 0 -K: -Z
printf '2 2\n2 -1\n-1 2\n' >"$work/expected"
kcat -C -t "$topic" -p 0 -o beginning -e -q -f '%K %S\n' >"$work/found"
same "null keys and values" "$work/expected" "$work/found"

# One record of 900 kB from a file.
topic=kcat-large-$run
head -c 900000 /dev/zero | tr '\0' y >"$work/in"
kcat -P -t "$topic" -p 0 "$work/in"
kcat -C -t "$topic" -p 0 -o beginning -e -q -f '%s' >"$work/found"
same "900 kB" "$work/in" "$work/found"

# A group reads everything once, and from its commit the next time.
topic=kcat-group-$run
seq 1 500 >"$work/in"
kcat -P -t "$topic" -l "$work/in"
kcat -G "group-$run" -q -X auto.offset.reset=earliest -c 500 "$topic" | sort -n >"$work/found"
same "group, first time" "$work/in" "$work/found"
seq 501 600 >"$work/in"
kcat -P -t "$topic" -l "$work/in"
kcat -G "group-$run" -q -X auto.offset.reset=earliest -c 100 "$topic" | sort -n >"$work/found"
same "group, from its commit" "$work/in" "$work/found"

# Look-up by time, and the list of topics.
kcat -Q -t "kcat-$run:0:0" >"$work/found"
echo "kcat-$run [0] offset 0" >"$work/expected"
same "offset by time" "$work/expected" "$work/found"
kcat -L -t "kcat-$run" | grep -c "^  topic \"kcat-$run\" with [0-9]* partition" >"$work/found"
echo 1 >"$work/expected"
same "list" "$work/expected" "$work/found"

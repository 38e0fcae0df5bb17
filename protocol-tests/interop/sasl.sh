#!/usr/bin/env bash
# kcat logs in to a listener with SASL: sasl.sh BOOTSTRAP_SERVERS, of alice with the password alice-secret
# Exit code 0 only if everything came back as it was written, and a wrong password is refused. Works the same on Apache Kafka
# and on `carafe broker`.
set -euo pipefail

bootstrap=${1:?usage: sasl.sh BOOTSTRAP_SERVERS}
run=$(date +%s)-$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

kcat() { # MECHANISM PASSWORD …
    local mechanism=$1 password=$2
    shift 2
    timeout 60 kcat -b "$bootstrap" -m 10 -X security.protocol=SASL_PLAINTEXT -X sasl.mechanisms="$mechanism" \
        -X sasl.username=alice -X sasl.password="$password" "$@"
}

seq 1 500 >"$work/in"
for mechanism in PLAIN SCRAM-SHA-256 SCRAM-SHA-512; do
    topic=sasl-${mechanism,,}-$run
    kcat "$mechanism" alice-secret -P -t "$topic" -p 0 -l "$work/in"
    kcat "$mechanism" alice-secret -C -t "$topic" -p 0 -o beginning -e -q >"$work/out"
    diff -u "$work/in" "$work/out"
    if kcat "$mechanism" guessed -L -m 5 >"$work/log" 2>&1; then
        echo "FAILED $mechanism: a wrong password was accepted"
        exit 1
    fi
    grep -qi "authentication" "$work/log" || {
        cat "$work/log"
        exit 1
    }
    echo "ok $mechanism"
done

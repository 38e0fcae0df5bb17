#!/usr/bin/env bash
# `carafe cat` against kcat 1.7.1: cat.sh BOOTSTRAP_SERVERS CARAFE_PROGRAM
# Runs both with the same flags on the same cluster (Apache Kafka or `carafe broker`) and compares what they print, byte
# by byte, and whether they succeed. Exit code 0 only if all is equal.
set -euo pipefail

bootstrap=${1:?usage: cat.sh BOOTSTRAP_SERVERS CARAFE_PROGRAM}
carafe=${2:?usage: cat.sh BOOTSTRAP_SERVERS CARAFE_PROGRAM}
run=$(date +%s)-$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work
failed=0

kcat_() { timeout 60 kcat -b "$bootstrap" -m 10 "$@"; }
carafe_() { timeout 60 "$carafe" cat -b "$bootstrap" -m 10 "$@"; }

verdict() { # NAME: compares the files kcat and carafe
    if cmp -s "$work/kcat" "$work/carafe"; then
        echo "ok $1"
    else
        echo "FAILED $1"
        diff <(od -c "$work/kcat") <(od -c "$work/carafe") | head -20 || true
        sed 's/^/  kcat: /' "$work/kcat.err" | tail -3
        sed 's/^/  carafe: /' "$work/carafe.err" | tail -3
        failed=1
    fi
}

# Output, and 0 or 1 for the exit code, of both programs with the same flags.
same() { # NAME FLAGS...
    local name=$1 program
    shift
    for program in kcat carafe; do
        local code=0
        "${program}_" "$@" >"$work/$program" 2>"$work/$program.err" </dev/null || code=1
        echo "exit $code" >>"$work/$program"
    done
    verdict "$name"
}

# The same in any order of lines, for several partitions.
same_sorted() { # NAME FLAGS...
    local name=$1 program
    shift
    for program in kcat carafe; do
        { "${program}_" "$@" 2>"$work/$program.err" </dev/null || echo failed; } | LC_ALL=C sort >"$work/$program"
    done
    verdict "$name"
}

# The same but for the controller: KRaft brokers name another one each time.
same_listing() { # NAME FLAGS...
    local name=$1 program
    shift
    for program in kcat carafe; do
        { "${program}_" "$@" 2>"$work/$program.err" </dev/null || echo failed; } |
            sed 's/ (controller)$//; s/"controllerid":[0-9]*/"controllerid":/' >"$work/$program"
    done
    verdict "$name"
}

# Both produce the same input to a topic of their own, kcat reads both topics.
same_produced() { # NAME INPUT FLAGS...
    local name=$1 input=$2 program topic
    shift 2
    count=$((${count:-0} + 1))
    for program in kcat carafe; do
        topic=cat-p$count-$program-$run
        local code=0
        "${program}_" -P -t "$topic" -p 0 "$@" <"$input" >"$work/$program" 2>"$work/$program.err" || code=1
        echo "exit $code" >>"$work/$program"
        kcat_ -C -t "$topic" -e -q -f '%o|%k|%K|%s|%S|%h|\n' >>"$work/$program" 2>/dev/null || true
    done
    verdict "$name"
}

# --- data ---

topic=cat-one-$run
printf 'a:1\nb:2\n:3\nc:\nnokey\nx\0y"\\/\t\b\x7f\xc3\xa9\xff\x01\x1f:\0v\n' >"$work/in"
codecs=(gzip snappy lz4)
"$carafe" cat -P -z zstd -b "$bootstrap" -t none </dev/null 2>/dev/null && codecs+=(zstd)
kcat_ -P -t "$topic" -p 0 -K: -H h1=v1 -H h2 -H h3= <"$work/in" 2>/dev/null
printf 'k1:\n:v2\n' | kcat_ -P -t "$topic" -p 0 -K: -Z 2>/dev/null
printf 'plain\n' | kcat_ -P -t "$topic" -p 0 2>/dev/null

many=cat-many-$run
seq 1 5000 | awk '{ printf "key-%d:%0" ($1 % 300) "d\n", $1, $1 }' >"$work/many"
kcat_ -P -t "$many" -p 0 -K: -z lz4 -l "$work/many" 2>/dev/null
for codec in "${codecs[@]}"; do head -200 "$work/many" | kcat_ -P -t "$many" -p 0 -K: -z $codec 2>/dev/null; done

empty=cat-empty-$run
for attempt in $(seq 50); do # created on first use
    printf 'x' | kcat_ -P -t "$empty" -p 0 2>/dev/null
    kcat_ -C -t "$empty" -e -q >/dev/null 2>&1 && break
    sleep 0.2
done

# --- consuming ---

same "plain" -C -t "$topic" -e -q
same "tokens" -C -t "$topic" -p 0 -e -q -f '%o|%k|%K|%s|%S|%R|%h|%T|%t|%p|%%\n'
same "null" -Ceqt "$topic" -Z -f '%k %s %K %S\n'
same "null without format" -C -t "$topic" -e -q -Z -K=
same "escapes" -C -t "$topic" -e -q -f '\x41\x0a\ab\x4142\065\65\q\\\t\r\n\xff%s'
same "cut at NUL" -C -t "$topic" -e -q -f 'x\0y%s\n'
same "key delimiter" -C -t "$topic" -e -q -K ' => ' -D '\n--\x41\t'
same "empty delimiters" -C -t "$topic" -e -q -K '' -D ''
same "token in a delimiter" -C -t "$topic" -e -q -K '%o'
same "long delimiter" -C -t "$topic" -e -q -D "$(printf '%080d' 0)"
same "json" -C -t "$topic" -e -q -J
same "json with delimiter" -C -t "$topic" -e -q -J -D '||'
same "json with format" -C -t "$topic" -e -q -J -f '--%s\n'
same "unbuffered" -C -t "$topic" -e -q -u
same "verbose" -C -t "$topic" -e
same "count" -C -t "$topic" -c 3 -q
same "count beyond the end" -C -t "$topic" -c 300 -e -q
same "codecs" -C -t "$many" -e -q -f '%o %k %s\n'
for offset in beginning end 0 1 4 999 -1 -3 -999; do
    same "offset $offset" -C -t "$topic" -p 0 -o $offset -e -q -f '%o %s\n'
done
same "offset 999, reset to the beginning" -C -t "$topic" -o 999 -e -q -X auto.offset.reset=earliest
same "offset and count" -C -t "$many" -o 1234 -c 7 -q -f '%o %s\n'
same "stored, nothing committed" -C -t "$topic" -o stored -X group.id="cat-none-$run" -e -q
same "stored, nothing committed, from the beginning" \
    -C -t "$topic" -o stored -X group.id="cat-none-$run" -X auto.offset.reset=smallest -e -q
same "stored without a group" -C -t "$topic" -o stored -e -q
timestamp=$(kcat_ -C -t "$topic" -o 6 -c 1 -q -f %T)
same "from a timestamp" -C -t "$topic" -o s@"$timestamp" -e -q -f '%o %s\n'
same "from the future" -C -t "$topic" -o s@99999999999999 -e -q
same "until a timestamp" -C -t "$topic" -o e@"$timestamp" -q -f '%o %s\n'
same "between timestamps" -C -t "$topic" -o s@1 -o e@"$timestamp" -e -q -f '%o %s\n'
same "no such topic" -C -t "cat-missing-$run" -e
same "no such partition" -C -t "$topic" -p 1000 -e
same "bad name" -C -t 'bad name' -e
same "bad formatter" -C -t "$topic" -e -f '%y'
same "lone percent" -C -t "$topic" -e -f '%s%'

# --- producing ---

same_produced "keys" "$work/in" -K:
same_produced "keys and null" "$work/in" -K: -Z
same_produced "fixed key" "$work/in" -K: -Z -k fix
same_produced "headers" "$work/in" -H a=b=c -H d -H e=
printf 'aXXbXcXXXXdXX' >"$work/x"
same_produced "delimiter" "$work/x" -D XX
same_produced "count" "$work/x" -D XX -c 2
same_produced "tee" "$work/in" -T -K:
same_produced "tee with delimiter" "$work/x" -T -D '\x58'
for codec in none "${codecs[@]}"; do same_produced "codec $codec" "$work/many" -K: -z $codec; done
same_produced "acks 1" "$work/in" -X acks=1
same_produced "acks 0" "$work/in" -X topic.acks=0
same_produced "idempotent" "$work/in" -X enable.idempotence=true
same_produced "message timeout" "$work/in" -X message.timeout.ms=5000
echo one >"$work/f1"
printf two >"$work/f2"
: >"$work/f0"
same_produced "files" /dev/null "$work/f1" "$work/f2" "$work/f0"
same_produced "files and a missing one" /dev/null "$work/f1" "$work/missing"
same_produced "missing file" /dev/null "$work/missing"
same_produced "empty file" /dev/null "$work/f0"
same_produced "files beyond the count" /dev/null -c 1 "$work/f1" "$work/f2"
same_produced "lines of a file" /dev/null -l "$work/in"
same_produced "missing file of lines" /dev/null -l "$work/missing"
same_produced "nothing" /dev/null
same_produced "empty delimiter" "$work/in" -D ''
head -c 900000 /dev/zero | tr '\0' y >"$work/large"
same_produced "900 kB" "$work/large"
cat "$work/large" "$work/large" >"$work/larger"
same_produced "too large" "$work/larger"
same_produced "unknown property" "$work/in" -X foo=bar
same_produced "unknown codec" "$work/in" -z foo

# Without a partition the key decides, in both by the same hash.
spread=cat-spread-$run
for program in kcat carafe; do
    "${program}_" -P -t "$spread-$program" -K: <"$work/many" 2>/dev/null
    kcat_ -C -t "$spread-$program" -e -q -f '%p %k %s\n' | LC_ALL=C sort >"$work/$program"
done
verdict "partitioner"
same_sorted "all partitions" -C -t "$spread-kcat" -e -q -f '%p %o %k %s\n'
same_sorted "tail of all partitions" -C -t "$spread-kcat" -o -5 -e -q -f '%p %o %k\n'

# --- groups ---

group() { # NAME FLAGS...
    local name=$1 program
    shift
    for program in kcat carafe; do
        { "${program}_" -G "cat-$program-$run" "$@" 2>"$work/$program.err" </dev/null || echo failed; } |
            LC_ALL=C sort >"$work/$program"
    done
    verdict "$name"
}
same "group, no such topic" -G "cat-none-$run" -q "cat-missing-$run"
same "group, one topic missing" -G "cat-none-$run" -q "$topic" "cat-missing-$run"
group "group from the end" -q -e "$many"
group "group from the beginning" -q -e -o beginning -f '%p %o %s\n' "$many" "$topic"
group "group, nothing new" -q -e -f '%p %o %s\n' "$many" "$topic"
group "group from an offset" -q -e -o 3 -f '%t %o\n' "$topic"
for program in kcat carafe; do
    for part in 1 2; do
        "${program}_" -G "cat-count-$program-$run" -q -X auto.offset.reset=earliest -c 4 -f '%o %s\n' "$topic" 2>/dev/null
    done >"$work/$program"
done
verdict "group goes on where it stopped"

# --- listing, offsets ---

# With several brokers, either program asks any of them.
first=${bootstrap%%,*}
bootstrap=$first
same_listing "list" -L
same_listing "list topic" -L -t "$topic"
same_listing "list json" -L -J
same_listing "list json topic" -LJt "$topic"
same_listing "list bad name" -L -t 'bad name'
same "offsets" -Q -t "$topic":0:-1 -t "$topic":0:-2
same "offset by time" -Q -t "$topic":0:"$timestamp"
same "offset in the future" -Q -t "$topic":0:99999999999999
same "offsets of several" -Q -t "$many":0:0 -t "$topic":0:-1
same "offset of a missing topic" -Q -t "cat-missing-$run":0:5
same "offset of a missing partition" -Q -t "$topic":1000:-2
same "offsets as json" -Q -J -t "$topic":0:-1 -t "$topic":1000:-2 -t "$many":0:0

# --- wrong command lines, dead and silent brokers ---

code() { # NAME EXPECTED SECONDS FLAGS...: carafe's exit code, within a time, with nothing on standard output
    local name=$1 expected=$2 seconds=$3 code=0
    shift 3
    timeout "$seconds" "$carafe" cat "$@" </dev/null >"$work/out" 2>"$work/carafe.err" || code=$?
    if [[ $code == "$expected" && ! -s $work/out ]]; then
        echo "ok $name"
    else
        echo "FAILED $name: exit code $code, not $expected"
        failed=1
    fi
}
code "unknown flag" 2 10 -b "$bootstrap" -L -w
code "no brokers" 2 10 -L
code "no topic" 2 10 -b "$bootstrap" -C
code "unknown property" 2 10 -b "$bootstrap" -L -X lingr.ms=5
code "two modes" 2 10 -b "$bootstrap" -P -C -t x
code "nobody there" 1 10 -b 127.0.0.1:1 -L -m 1
if command -v python3 >/dev/null; then
    python3 -c '
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
kept = []
while True:
    kept.append(server.accept())
' >"$work/port" &
    silent=$!
    trap 'kill $silent; rm -rf "$work"' EXIT
    until [[ -s $work/port ]]; do sleep 0.1; done
    silence=127.0.0.1:$(cat "$work/port")
    code "silent broker, list" 1 5 -b "$silence" -L -m 1
    code "silent broker, consume" 1 5 -b "$silence" -C -t x -m 1
    code "silent broker, group" 1 5 -b "$silence" -G g x -m 1
    code "silent broker, offsets" 1 5 -b "$silence" -Q -t x:0:0 -m 1
    code "silent broker, produce" 1 5 -b "$silence" -P -t x -m 1 "$work/f1"
fi

# kcat may have the brokers create it, so this comes last.
same_listing "list missing topic" -L -t "cat-missing-$run-listed"

exit $failed

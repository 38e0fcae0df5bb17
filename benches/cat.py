#!/usr/bin/env python3
"""CPU time of `carafe cat -P` beside kcat: cat.py CARAFE_PROGRAM [LINES] [ROUNDS]

Starts `carafe broker --discard` and lets both produce the same file in turns, without and with keys. Prints CPU-seconds
per million lines (user and system, getrusage, of the producing process alone) and the ratio of the medians.
"""

import resource
import statistics
import subprocess
import sys
import tempfile

carafe = sys.argv[1]
lines = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5


def cpu(command, path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(path, "rb") as stdin:
        subprocess.run(command, stdin=stdin, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(name, line, flags, bootstrap):
    with tempfile.NamedTemporaryFile("w") as file:
        file.writelines(line(number) for number in range(lines))
        file.flush()
        programs = {"carafe": [carafe, "cat"], "kcat": ["kcat"]}
        times = {program: [] for program in programs}
        for _ in range(rounds):
            for program, command in programs.items():
                command = command + ["-P", "-b", bootstrap, "-t", f"cat-{program}", *flags]
                times[program].append(cpu(command, file.name) * 1e6 / lines)
    ours, theirs = (statistics.median(times[program]) for program in ("carafe", "kcat"))
    print(f"{name}: carafe {ours:.3f}, kcat {theirs:.3f} CPU-s per million lines, {ours / theirs:.2f}")


broker = subprocess.Popen(
    [carafe, "broker", "--listen", "127.0.0.1:0", "--discard", "--topic", "cat-carafe:4", "--topic", "cat-kcat:4"],
    stdout=subprocess.PIPE,
    text=True,
)
try:
    bootstrap = broker.stdout.readline().strip().removeprefix("bootstrap.servers=")
    measure("lines of 100 bytes", lambda number: f"{number:0100}\n", [], bootstrap)
    measure("with keys", lambda number: f"key-{number % 1000}:{number:090}\n", ["-K:"], bootstrap)
finally:
    broker.terminate()
    broker.wait()

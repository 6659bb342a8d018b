"""A process with a heap as a service has one: objects, their text, and free memory among them.

    python -m tests.benchmarks.heap MIB

Prints {"pid": P}.  Answers each line on stdin with {"gap": NANOSECONDS}: the longest time since the
last line in which a thread that watches the clock did not run (as tests/targets/bulk.c).
"""

import json
import os
import random
import sys
import threading
import time

_MIB = 1 << 20
_OF_A_RECORD = 700
"""Bytes, about, with its part of the list."""
_NAP = 1e-4

_longest = [0]


def _watch() -> None:
    before = time.monotonic_ns()
    while True:
        time.sleep(_NAP)
        now = time.monotonic_ns()
        _longest[0] = max(_longest[0], now - before)
        before = now


def _record(number: int, chance: random.Random) -> dict[str, object]:
    return {
        "id": number,
        "user": f"user{chance.randrange(10_000)}@example.org",
        "token": chance.randbytes(24),
        "path": f"/api/v2/orders/{number}/items",
        "seconds": chance.random(),
    }


def _answer() -> None:
    for _ in sys.stdin:
        gap, _longest[0] = _longest[0], 0
        print(json.dumps({"gap": gap}), flush=True)


def main() -> None:
    chance = random.Random(1)
    count = int(sys.argv[1]) * _MIB // _OF_A_RECORD
    records = [_record(number, chance) for number in range(count)]
    del records[::7]
    threading.Thread(target=_watch, daemon=True).start()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    _answer()


if __name__ == "__main__":
    main()

"""frames.py N: threads asleep at the end of a known chain of calls, each with its own values in
its frames.

First line: pid, functions, and for each thread its tid, its name, and the values in its frames.
"""

import json
import os
import sys
import threading

arrived = threading.Semaphore(0)
never = threading.Lock()
never.acquire()
threads: list[dict[str, object]] = []


def inner(number: int, canaries: dict[str, object]) -> int:
    inner_canary = 1_000_000 * number + 7
    threads.append(
        {
            "tid": threading.get_native_id(),
            "name": threading.current_thread().name,
            "canaries": {**canaries, "inner": inner_canary},
        }
    )
    arrived.release()
    with never:
        return inner_canary


def middle(number: int, canaries: dict[str, object]) -> str:
    middle_canary = f"middle of {number}"
    inner(number, {**canaries, "middle": middle_canary})
    return middle_canary


def outer(number: int) -> list[int]:
    outer_canary = [number, number + 1]
    middle(number, {"outer": outer_canary})
    return outer_canary


for number in range(int(sys.argv[1])):
    threading.Thread(target=outer, args=(number,), name=f"worker-{number}", daemon=True).start()
    arrived.acquire()
functions = [function.__name__ for function in (inner, middle, outer)]
print(json.dumps({"pid": os.getpid(), "functions": functions, "threads": threads}), flush=True)
sys.stdin.read()

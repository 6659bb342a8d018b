"""The Python interface in a program with a thread that waits for any child.

Such a thread also gets the stops of all threads that the program traces (wait(2), __WNOTHREAD), and
the kernel reports each of them once.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import Target
from tests.live.accounts import assert_free, compare

Spawn = Callable[..., Target]

STOPS = 20

# Prints how the threads of each core were recorded, and what each thread of the process does after
# its stop.
PROGRAM = """
import json, os, sys, threading
import gcorefs

pid, stops, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def reap():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            pass

def after():
    states = set()
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status", "rb") as file:
            lines = dict(line.split(b":\\t", 1) for line in file.read().splitlines())
        states.add((chr(lines[b"State"][0]), int(lines[b"TracerPid"])))
    return sorted(states)

threading.Thread(target=reap, daemon=True).start()
for _ in range(stops):
    with gcorefs.stop(pid, gcorefs.Policy.of(words)) as stop:
        core = stop.core()
        assert core.read(0, 4) == b"\\x7fELF"
        threads = core.facts["threads"]
    print(json.dumps({"threads": threads, "after": after()}), flush=True)
"""


def stopped_by(pid: int, stops: int, words: str) -> list[dict[str, object]]:
    command = [sys.executable, "-c", PROGRAM, str(pid), str(stops), words]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("words", ["stop=all", "stop=each,memory=none", "stop=gentle", "hold=copy"])
def test_every_thread_is_recorded_and_let_go(spawn: Spawn, words: str) -> None:
    target = spawn("threads", 7)
    # A program of two threads does not load BPF, so what is left asleep is known in part.
    how = "partial" if words == "stop=gentle" else "stopped"
    for found in stopped_by(target.pid, STOPS, words):
        counts = found["threads"]
        assert isinstance(counts, dict)
        assert counts[how] == sum(counts.values()) == 8
        assert all(tracer == 0 for _, tracer in found["after"])  # type: ignore[attr-defined]
    assert_free(target.pid)


@pytest.mark.parametrize(
    "words", ["stop=all", "stop=each,memory=none", "stop=gentle", "stop=gentle,memory=none"]
)
@pytest.mark.parametrize("name", ["signals", "storm"])
def test_no_signal_is_lost(spawn: Spawn, name: str, words: str) -> None:
    arguments = [4] if name == "storm" else []
    expected, found = compare(
        lambda: spawn(name, *arguments),
        lambda target: assert_stopped(target.pid, 2 * STOPS, words),
    )
    assert found == expected


def assert_stopped(pid: int, stops: int, words: str) -> None:
    assert len(stopped_by(pid, stops, words)) == stops


@pytest.mark.parametrize("words", ["hold=fork", "hold=fork,memory=kernel"])
def test_a_child_that_keeps_the_memory_ends(spawn: Spawn, words: str) -> None:
    target = spawn("threads", 2)
    assert len(stopped_by(target.pid, 10, words)) == 10
    assert_free(target.pid)

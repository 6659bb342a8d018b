"""A thread begins and ends, or the caller is told: it never waits for one that is not there."""

import queue
import subprocess
import sys
from pathlib import Path

from gcorefs.process.threads import start_thread
from tests import own_tasks

# One more page of addresses each time: there is no room for the stack of a thread, then for that
# alone, then for all that it needs.
SCARCE = """
import resource, threading
from gcorefs.process.threads import NoThread, start_thread

threading.stack_size(1 << 20)
free, _ = resource.getrlimit(resource.RLIMIT_AS)
outcomes = []
for room in range(0, 2 << 20, 4096):
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + room, free))
    try:
        start_thread("scarce", outcomes.append, room).join()
    except NoThread:
        outcomes.append(None)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (free, free))
print(outcomes.count(None) * 4096 >= 1 << 20, *[room for room in outcomes if room is not None][-1:])
"""


def test_a_thread_without_memory_for_its_first_frame_is_an_error() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCARCE], timeout=60, capture_output=True, check=True, text=True
    )
    assert (result.stdout, result.stderr) == (f"True {(2 << 20) - 4096}\n", "")


def test_a_thread_that_was_joined_is_gone() -> None:
    go: queue.SimpleQueue[None] = queue.SimpleQueue()
    thread = start_thread("by-a-name-that-is-long", go.get)
    assert own_tasks.names().count("by-a-name-that-") == 1
    assert not thread.has_ended
    thread.join(0)
    assert not thread.has_ended
    go.put(None)
    thread.join()
    thread.join()
    assert thread.has_ended
    assert not Path(f"/proc/self/task/{thread.tid}").exists()


def test_an_error_ends_the_thread_and_is_told() -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from gcorefs.process.threads import start_thread\n"
            "thread = start_thread('divide', divmod, 1, 0)\n"
            "thread.join()\n"
            "print(thread.has_ended)",
        ],
        timeout=60,
        capture_output=True,
        check=True,
        text=True,
    )
    assert result.stdout == "True\n"
    assert "ZeroDivisionError" in result.stderr

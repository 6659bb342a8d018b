"""A parent and a child that share memory (targets/family.c), and how much each of them has.

The target itself counts, and /proc/PID/smaps shows how much of a range is shared.  The sum of Pss
over both is the memory that the machine uses for them (proc(5)).
"""

import contextlib
import fcntl
import re
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.conftest import Target

MIB = 1 << 20
PAGE = 4096
_KSM = Path("/sys/kernel/mm/ksm")
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
_SIZE = re.compile(r"(\w+): +(\d+) kB")


class Family:
    """`keys`: the fields of smaps that are checked, as sums in kB for each process."""

    def __init__(self, spawn: Callable[..., Target], memory: str, parent: str, size: int) -> None:
        self.target = spawn("family", memory, parent, size // MIB)
        truth = self.target.truth
        self.pids = [truth["pid"], *([] if parent == "alone" else [truth["parent"]])]
        self.start = int(truth["start"], 16)
        self.end = self.start + truth["size"]
        self.memory = memory
        if memory == "ksm":
            self._await_merged()

    def _await_merged(self) -> None:
        """Wait until ksmd has found every page that exists twice.

        Nothing reports when it has finished, so this reads smaps.
        """
        deadline = time.monotonic() + 60
        while any(sizes["KSM"] < sizes["Rss"] for sizes in self.sizes()):
            assert time.monotonic() < deadline, f"ksmd does not merge: {self.sizes()}"
            time.sleep(0.01)

    def sizes(self) -> list[Counter[str]]:
        """The fields of smaps for the memory, in kB, for the child and its parent."""
        return [_sizes(pid, self.start, self.end) for pid in self.pids]

    def counts(self) -> tuple[object, ...]:
        """All values that a read must leave unchanged."""
        unchanging = [{**sizes, "Referenced": 0} for sizes in self.sizes()]
        return unchanging, self.target.ask("pages")

    def expected(self) -> bytes:
        """The content of its memory."""
        size = self.end - self.start
        if self.memory == "ksm":
            return array("Q", range(1, size // 2, 8)).tobytes() * 2
        return array("Q", range(self.start, self.end, 8)).tobytes()


def _sizes(pid: int, start: int, end: int) -> Counter[str]:
    found: Counter[str] = Counter()
    is_ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="replace").split("\n"):
        if match := _HEAD.match(line):
            is_ours = int(match[1], 16) < end and int(match[2], 16) > start
        elif is_ours and (match := _SIZE.match(line)):
            found[match[1]] += int(match[2])
    return found


@contextlib.contextmanager
def ksmd() -> Iterator[Callable[[], object]]:
    """The kernel merges mergeable pages as fast as it can, until the function is called."""
    settings = {"pages_to_scan": "100000", "sleep_millisecs": "1", "run": "1"}
    with (_KSM / "run").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = {name: (_KSM / name).read_text() for name in settings}
        try:
            for name, value in settings.items():
                (_KSM / name).write_text(value)
            yield partial((_KSM / "run").write_text, "0")
        finally:
            for name, value in before.items():
                (_KSM / name).write_text(value)

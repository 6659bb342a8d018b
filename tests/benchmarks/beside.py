"""gcorefs beside other programs for the same end, in one run and with one process: how long the
process stands still, as it sees that itself; how long the whole command takes; with which status
it ends; and whether its result is true.

Whoever is not installed is named, and not measured.  So is whoever has no true result at first.
"""

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gcorefs.kernel.proc import tasks
from tests.benchmarks import results, rivals
from tests.benchmarks.bench import Bench, await_release, seconds, warm_up
from tests.benchmarks.figures import Topic
from tests.benchmarks.rivals import Rival
from tests.conftest import Target

FUNCTIONS = ("_answer", "_watch")
"""Of heap.py: of its first thread and of its second."""

LINES = 3
"""Of a complaint: the cause comes before the last line."""


@dataclass
class Outcome:
    taken: float
    """Milliseconds, as is `stopped`."""
    stopped: float
    status: int
    is_true: bool
    complaint: str
    """The end of what it wrote to standard error, or to its output."""


@dataclass
class Task:
    what: str
    target: Target
    rivals: Sequence[Rival]
    yardstick: Rival
    is_true: Callable[[Path, str], bool]
    """Judges the folder that has the result, and the output."""
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def once(self, rival: Rival, folder: Path) -> Outcome:
        """One run of a program in a folder that is empty before and gone afterwards."""
        folder.mkdir()
        try:
            self.target.ask("gap")
            begun = []
            taken = seconds(lambda: begun.append(rival.of(self.target.pid, folder)))
            await_release(self.target.pid)
            stopped = self.target.ask("gap")["gap"] / 1e6
            (done,) = begun
            is_true = self.is_true(folder, done.stdout)
            said = (done.stderr or done.stdout).strip().splitlines()
            complaint = " / ".join(said[-LINES:])
            return Outcome(1e3 * taken, stopped, done.returncode, is_true, complaint)
        finally:
            shutil.rmtree(folder)


def measure(bench: Bench) -> Topic:
    size = bench.options.size
    topic = Topic("rivals", f"Beside others: a process of {size:,} MiB, and one of Python")
    tasks_ = (cores(bench, size), stacks(bench, max(1, size // 4)))
    folder = bench.shm / "work"
    entered = [(task, enter(task, topic, folder)) for task in tasks_]
    for _ in bench.rounds():
        for task, here in entered:
            for name, rival in here.items():
                # For each of them: a machine may take memory back in the half minute of another.
                warm_up(bench.shm, 2 * size)
                task.outcomes.setdefault(name, []).append(task.once(rival, folder))
    for task, here in entered:
        tell(task, here, topic)
    return topic


def cores(bench: Bench, size: int) -> Task:
    target = bench.target("bulk", size)
    start, length = int(target.truth["start"], 16), target.truth["size"]
    threads = len(tasks.tids(target.pid))

    def is_true(folder: Path, _: str) -> bool:
        return results.is_true(folder, target.pid, start, length, threads)

    here = (*rivals.OTHERS, *rivals.OURS)
    return Task("a core", target, here, rivals.GCORE, is_true)


def stacks(bench: Bench, size: int) -> Task:
    target = bench.start([sys.executable, "-m", "tests.benchmarks.heap", str(size)])

    def is_true(_: Path, output: str) -> bool:
        return all(re.search(rf"\b{name}\b", output) for name in FUNCTIONS)

    return Task("stacks of Python", target, rivals.OF_PYTHON, rivals.PY_SPY, is_true)


def enter(task: Task, topic: Topic, folder: Path) -> dict[str, Rival]:
    """By name and version: those that can be measured.  Each has run once, from the disk."""
    here = {}
    for rival in task.rivals:
        if not rival.is_installed():
            topic.facts[rival.name] = "not measured: it is not installed"
            continue
        name = f"{rival.name} {rival.version()}".strip()
        first = task.once(rival, folder)
        if first.is_true:
            here[name] = rival
        else:
            said = f"status {first.status}, no true result: {first.complaint}"
            topic.facts[name] = f"not measured: {said}"
    return here


def tell(task: Task, here: dict[str, Rival], topic: Topic) -> None:
    """Figures of all rounds, and how often each had a good end."""
    stopped = topic.figure(f"stopped, {task.what}", f"Stopped for {task.what}", "ms")
    taken = topic.figure(f"taken, {task.what}", f"From the command to its end, {task.what}", "ms")
    yardstick = next((name for name, rival in here.items() if rival is task.yardstick), None)
    if yardstick is None:
        topic.facts[f"ratios for {task.what}"] = f"none: {task.yardstick.name} is not measured"
    for name, outcomes in task.outcomes.items():
        for each in outcomes:
            stopped.add(name, each.stopped)
            taken.add(name, each.taken)
        good = sum(each.status == 0 for each in outcomes)
        true = sum(each.is_true for each in outcomes)
        topic.facts[name] = (
            f"of {len(outcomes)} rounds: status 0 in {good}, a true result in {true}"
        )
    for name in here:
        if yardstick not in (None, name):
            topic.relate(stopped.over(name, yardstick))

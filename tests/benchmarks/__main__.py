"""Measures the figures in the manual about speed, and draws them.

    python -m tests.benchmarks [--rounds N] [--size MIB] [--full] [--out FOLDER] [TOPIC...]

Each topic writes a file TOPIC.json with every value of every round, and plots beside it.
Nothing here fails because it is slow.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tests.benchmarks import (
    beside,
    compressing,
    cost,
    death,
    machine,
    opening,
    plots,
    precopy,
    reading,
    sparse,
    stacks,
    stopped,
    walks,
)
from tests.benchmarks.bench import Bench, Options
from tests.benchmarks.figures import Topic, restored, spread

TOPICS: dict[str, Callable[[Bench], Topic]] = {
    "reading": reading.measure,
    "stopped": stopped.measure,
    "rivals": beside.measure,
    "threads": opening.threads,
    "mappings": opening.mappings,
    "bpf": walks.measure,
    "stacks": stacks.measure,
    "precopy": precopy.measure,
    "fork": precopy.measure_fork,
    "memory": cost.memory,
    "listing": cost.listing,
    "death": death.measure,
    "sparse": sparse.measure,
    "compress": compressing.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=", ".join(TOPICS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="a large process's")
    parser.add_argument("--full", action="store_true", help="sizes that take minutes, too")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="FOLDER")
    parser.add_argument("--redraw", action="store_true", help="measure nothing, draw what is there")
    arguments = parser.parse_args()
    names = arguments.topics or [*TOPICS]
    if unknown := set(names) - TOPICS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = Options(arguments.rounds, arguments.size, arguments.full)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name in names:
        path = arguments.out / f"{name}.json"
        if not arguments.redraw:
            keep(path, name, options, console)
        if path.exists():
            kept = json.loads(path.read_text())
            plots.draw(restored(kept["topic"]), kept, arguments.out)


def keep(path: Path, name: str, options: Options, console: Console) -> None:
    with Bench(options) as bench:
        topic = TOPICS[name](bench)
        noise = bench.noise
    topic.print(console)
    times = [1e3 * each["seconds"] for each in noise]
    console.print(f"noise: a fixed piece of work took {spread(times)} ms, load {noise[-1]['load']}")
    kept = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "machine": machine.facts(),
        "options": asdict(options),
        "noise": noise,
        "topic": topic.plain(),
    }
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    if shutil.which(command[0]) is None:  # a fresh Debian
        return "unknown"
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("run as root")
    main()

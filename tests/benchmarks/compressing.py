"""How small a core gets, how long that takes, and how long a page out of its middle takes."""

import os
import sys
from functools import partial
from pathlib import Path

from tests.benchmarks.bench import Bench, await_release, run, seconds, warm_up
from tests.benchmarks.figures import Topic, ratio
from tests.conftest import GCOREFS

PLAIN = "gcorefs dump"
PIPE = "gcorefs dump -o - | zstd -T0"
ZSTD = "gcorefs dump --compress zstd"
COPY = "gcorefs dump --compress zstd --hold copy"
COMMANDS = {
    PLAIN: '"$1" dump "$2" -o "$3"',
    PIPE: '"$1" dump "$2" -o - | zstd -q -T0 > "$3"',
    ZSTD: '"$1" dump "$2" --compress zstd -o "$3"',
    COPY: '"$1" dump "$2" --compress zstd --hold copy -o "$3"',
}
CAT, WHOLE = "gcorefs cat", "zstd -dc | tail | head"


def measure(bench: Bench) -> Topic:
    topic = Topic("compress", "A compressed core")
    taken = topic.figure("taken", "From the start of the command to its end", "ms")
    stopped = topic.figure("stopped", "Stopped", "ms")
    size = topic.figure("size", "Size of the file", "MiB")
    page = topic.figure("page", "One page out of the middle", "ms")
    mebibytes = bench.options.size
    target = bench.start([sys.executable, "-m", "tests.benchmarks.heap", str(mebibytes)])
    core = bench.shm / "core"
    warm_up(bench.shm, 2 * mebibytes)
    for _ in bench.rounds():
        for way, command in COMMANDS.items():
            target.ask("gap")
            words = ("bash", "-euo", "pipefail", "-c", command, "-", GCOREFS, target.pid, core)
            taken.add(way, 1e3 * seconds(partial(run, *words)))
            await_release(target.pid)
            stopped.add(way, target.ask("gap")["gap"] / 1e6)
            size.add(way, os.stat(core).st_size / (1 << 20))
            if way == ZSTD:
                for reader, time in _page(core, mebibytes << 19).items():
                    page.add(reader, 1e3 * time)
            core.unlink()
    for figure, what in ((taken, "time"), (stopped, "stopped"), (size, "size")):
        for way in (PLAIN, PIPE):
            title = f"{what}, --compress zstd / {way}"
            topic.relate(ratio(title, figure.of(ZSTD), figure.of(way)))
    topic.relate(stopped.over(COPY, PLAIN), page.over(CAT, WHOLE))
    return topic


def _page(core: Path, offset: int) -> dict[str, float]:
    """By reader: the seconds that it takes for a page."""
    part = '"$1" cat "$2" --offset "$3" --length 4096 > /dev/null'
    whole = 'zstd -dc "$2" | tail -c +$(($3 + 1)) | head -c 4096 > /dev/null'
    commands = {CAT: part, WHOLE: whole}
    words = ("-", GCOREFS, core, offset)
    return {
        way: seconds(partial(run, "bash", "-c", command, *words))
        for way, command in commands.items()
    }

"""How fast the bytes of a core come, compared with the limits of the machine and of FUSE."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.bench import MIB, Bench, await_release, run, seconds, warm_up
from tests.benchmarks.figures import Topic, ratio
from tests.conftest import Target

GIB = 1 << 30
RAW = "process_vm_readv in C, no core"
TMPFS = "cp, tmpfs to tmpfs"
MOUNT, STATIC = "the mount", "a static buffer"
PREADS = 2_000


@contextlib.contextmanager
def standing(target: Target) -> Iterator[None]:
    """Hold it, so that it takes no processor time from a reader of something else.  From a reader
    that has stopped it, it takes none either."""
    target.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        target.popen.send_signal(signal.SIGCONT)


def dd(file: Path, block: str) -> None:
    run("dd", f"if={file}", "of=/dev/null", f"bs={block}")


def cat(file: Path) -> None:
    subprocess.run(["cat", file], check=True, stdout=subprocess.DEVNULL)


def measure(bench: Bench) -> Topic:
    topic = Topic("reading", f"Reading a process of {bench.options.size} MiB in 4 KiB pages")
    whole(bench, topic)
    at_random(bench, topic)
    four_at_once(bench, topic)
    return topic


def whole(bench: Bench, topic: Topic) -> None:
    target = bench.target("bulk", bench.options.size)
    file = bench.mount() / target.pid
    core, copy = bench.shm / "core", bench.shm / "copy"
    start, length = target.truth["start"], target.truth["size"]
    own = bench.own("raw")
    ways: dict[str, Callable[[], object]] = {RAW: lambda: run(own, target.pid, start, length)}
    for place, path in ((MOUNT, file), (STATIC, bench.static(bench.options.size))):
        ways |= {
            f"dd bs=1M, {place}": partial(dd, path, "1M"),
            f"dd bs=128K, {place}": partial(dd, path, "128K"),
            f"cat, {place}": partial(cat, path),
            f"cp to tmpfs, {place}": partial(run, "cp", path, core),
        }
    figure = topic.figure("throughput", "Throughput", "GiB/s")
    size = bench.options.size * MIB
    warm_up(bench.shm, 3 * bench.options.size)
    for _ in bench.rounds():
        for way, take in ways.items():
            core.unlink(missing_ok=True)  # no way must pay for the old core of another way
            with standing(target) if way.endswith(STATIC) else contextlib.nullcontext():
                figure.add(way, size / GIB / seconds(take))
            await_release(target.pid)
        figure.add(TMPFS, size / GIB / seconds(lambda: run("cp", core, copy)))
        copy.unlink()
    core.unlink()
    topic.relate(
        figure.over(f"dd bs=1M, {MOUNT}", RAW, aim="at least 0.60"),
        figure.over(f"cat, {MOUNT}", RAW, aim="at least 0.60"),
        figure.over(f"dd bs=1M, {MOUNT}", f"dd bs=1M, {STATIC}"),
        figure.over(f"dd bs=128K, {MOUNT}", f"dd bs=128K, {STATIC}", aim="at least 0.9"),
        figure.over(f"cp to tmpfs, {MOUNT}", TMPFS, aim="at least 0.85"),
        figure.over(f"cp to tmpfs, {STATIC}", TMPFS),
    )


def at_random(bench: Bench, topic: Topic) -> None:
    target = bench.target("bulk", bench.options.size)
    files = {MOUNT: bench.mount() / target.pid, STATIC: bench.static(bench.options.size)}
    figure = topic.figure("preads", f"{PREADS:,} reads of 4 KiB at random, their median", "µs")
    for number in bench.rounds():
        for way, file in files.items():
            with standing(target) if way == STATIC else contextlib.nullcontext():
                answer = json.loads(run(bench.own("preads"), file, PREADS, number))
            figure.add(way, answer["median"] / 1e3)
            figure.add(f"{way}, the worst", answer["worst"] / 1e3)
            await_release(target.pid)
    topic.relate(figure.over(MOUNT, STATIC, aim="at most 1.5"))


def four_at_once(bench: Bench, topic: Topic) -> None:
    """Each reads its own process, a quarter of the size; compared with the same without FUSE."""
    each = max(1, bench.options.size // 4)
    targets = [bench.target("bulk", each) for _ in range(4)]
    own = bench.own("raw")

    def reading(target: Target) -> list[object]:
        return ["dd", f"if={bench.mount() / target.pid}", "of=/dev/null", "bs=1M"]

    def raw_of(target: Target) -> list[object]:
        return [own, target.pid, target.truth["start"], target.truth["size"]]

    figure = topic.figure("readers", f"dd bs=1M of processes of {each} MiB, all together", "GiB/s")
    for _ in bench.rounds():
        for way, command in ((MOUNT, reading), (RAW, raw_of)):
            for some in (targets[:1], targets):
                taken = seconds(partial(together, [command(each) for each in some]))
                figure.add(name(way, len(some)), len(some) * each * MIB / GIB / taken)
                for target in some:
                    await_release(target.pid)
    for way in (MOUNT, RAW):
        four, one = figure.of(name(way, 4)), figure.of(name(way, 1))
        topic.relate(ratio(f"{way}: four at once / one", four, one, "no less than 1"))


def name(way: str, readers: int) -> str:
    return f"{way}, {'one' if readers == 1 else 'four at once'}"


def together(commands: Sequence[Sequence[object]]) -> None:
    running = [
        subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    for each in running:
        # With a timeout, wait would poll, and return up to 50 ms late.
        if each.wait():
            raise RuntimeError(f"{each.args!r} ended with {each.returncode}")

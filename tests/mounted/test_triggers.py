"""`gcorefs watch --when`: what is taken when a condition holds, and what is told of it."""

import contextlib
import io
import os
import re
import resource
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import zstandard
from prometheus_client.parser import text_string_to_metric_families

from gcorefs.cli.compression import Compression
from gcorefs.cli.takers import KINDS, form, name_now, taker
from gcorefs.elfcore.corefile import read_core
from gcorefs.errors import GcorefsError
from gcorefs.export.recordings import Bounds, Recordings
from gcorefs.kernel.proc import task_stat
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from tests.conftest import GCOREFS, Target
from tests.mounted.conftest import AS_NOBODY, NOBODY, Imports, eventually, gcorefs, is_free, run
from tests.mounted.journald import Journal, journald
from tests.tuned import program

Spawn = Callable[..., Target]

STAMP = r"\d{8}T\d{6}\.\d{3}Z"


class Watch:
    """A running `gcorefs watch`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def error(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().rstrip("\n")


@contextlib.contextmanager
def watching(
    target: Target,
    folder: Path,
    *words: object,
    around: tuple[object, ...] = (),
    program: Path = GCOREFS,
) -> Iterator[Watch]:
    command = [*around, program, "watch", "--poll", "20ms", *words, target.pid, folder]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Watch(process)
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cores"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()


def test_nothing_is_taken_before_the_condition_holds(spawn: Spawn, folder: Path) -> None:
    target = spawn("swell")
    with watching(target, folder, "--when", "rss>48M") as watch:
        assert target.ask("memory 16")["resident"] < 48 << 20
        assert target.ask("memory 64")["resident"] > 64 << 20
        told = watch.line()
        match = re.fullmatch(
            rf"(core\.{target.pid}\.{STAMP}): 2 threads, stopped for \d+\.\d ms, (\d+) bytes; "
            r"rss is (\d+) MiB",
            told,
        )
        assert match, told
        assert int(match[3]) > 48  # else it was taken after the first step
        assert watch.process.poll() is None
    assert names(folder) == [match[1]]
    path = folder / match[1]
    assert path.stat().st_size == int(match[2]) > 64 << 20
    with path.open("rb") as file:
        core = read_core(file)
    assert core.facts is not None
    assert core.facts["policy"]["hold"] == "copy"
    eventually(lambda: is_free(target.pid))


def test_any_of_several_conditions_suffices(spawn: Spawn, folder: Path) -> None:
    target = spawn("swell")
    words = ("--when", "rss>1T|threads>9", "--when", "D>1h", "--policy", "@threads")
    with watching(target, folder, *words) as watch:
        count = target.ask("threads 8")["threads"]
        assert watch.line().endswith(f" bytes; threads are {count}")


def test_a_busy_process_is_seen(spawn: Spawn, folder: Path) -> None:
    target = spawn("swell")
    words = ("--when", "cpu>20%/200ms", "--policy", "@threads")
    with watching(target, folder, *words) as watch:
        target.ask("spin")
        assert re.search(r" bytes; cpu was \d+% for 0\.\d+ s$", watch.line())
        target.ask("rest")


def test_a_thread_in_state_d_is_seen(spawn: Spawn, folder: Path) -> None:
    target = spawn("vforker")
    words = ("--when", "D>100ms", "--policy", "@glance")
    with watching(target, folder, *words) as watch:
        assert re.search(r"; 1 thread in state D, the longest for \d\.\d+ s$", watch.line())
    target.ask("release")


def test_the_cooldown_and_the_day_are_kept(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 3)
    words = ("--when", "threads>1", "--cooldown", "10ms", "--max-per-day", "2")
    with watching(target, folder, *words, "--policy", "@threads") as watch:
        told = [watch.line(), watch.line()]
        assert watch.error() == (
            "threads are 4: --max-per-day is reached, the next is taken in 24.0 h"
        )
        target.kill()
        out, err = watch.process.communicate(timeout=60)
    assert len(names(folder)) == 2
    last = told[-1].partition(":")[0]
    assert out == f"process {target.pid} has ended; the last core is {last}\n"
    assert (err, watch.process.returncode) == ("", 0)


def test_one_that_cannot_be_taken_counts_for_the_day(
    spawn: Spawn, folder: Path, strace: Callable[[int], int]
) -> None:
    target = spawn("swell")
    words = ("--when", "threads>4", "--cooldown", "10ms", "--max-per-day", "2")
    with watching(target, folder, *words) as watch:
        strace(target.pid)
        target.ask("threads 4")
        for _ in range(2):
            assert f"process {target.pid}: another tracer holds it" in watch.error()
        assert "--max-per-day is reached" in watch.error()
        assert watch.process.poll() is None
    assert names(folder) == []


@pytest.mark.parametrize(("level", "method"), [((), "zstd"), (("--level", "9"), "zstd")])
def test_a_compressed_core_is_counted_as_it_is(
    spawn: Spawn, folder: Path, level: tuple[str, ...], method: str
) -> None:
    target = spawn("threads", 3)
    words = ("--when", "threads>1", "--compress", method, *level, "--policy", "@stacks")
    with watching(target, folder, *words) as watch:
        name = watch.line().partition(":")[0]
    assert names(folder) == [name]
    assert re.fullmatch(rf"core\.{target.pid}\.{STAMP}\.zst", name)
    assert read_core(io.BytesIO(unpacked(folder / name))).threads == 4


def test_the_last_compressed_cores_stay(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 3)
    command = [GCOREFS, "watch", "--every", "20ms", "--keep", "2", "--compress", "zstd"]
    with subprocess.Popen(
        [*map(str, command), str(target.pid), str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert ".zst: 4 threads" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert 2 <= len(names(folder)) <= 3


def test_a_compressed_core_may_not_be_larger_than_all(spawn: Spawn, folder: Path) -> None:
    target = spawn("bulk", 8)
    words = ("--when", "threads>0", "--compress", "zstd", "--space", "1", "--metrics",
             folder.parent / "gcorefs.prom")  # fmt: skip
    with watching(target, folder, *words, "--policy", "memory=all") as watch:
        assert re.fullmatch(rf"{folder}/core\.\S+\.zst: --space allows no more", watch.error())
        eventually(lambda: counts(folder.parent / "gcorefs.prom").get("errors ENOSPC") == 1)
    assert names(folder) == []


def test_stacks_are_text(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 3)
    with watching(target, folder, "--when", "threads>1", "--then", "stacks") as watch:
        told = watch.line()
    match = re.fullmatch(
        rf"(stacks\.{target.pid}\.{STAMP}\.txt): 4 threads, stopped for \d+\.\d ms, (\d+) bytes; "
        "threads are 4",
        told,
    )
    assert match, told
    assert names(folder) == [match[1]]
    data = (folder / match[1]).read_bytes()
    assert len(data) == int(match[2])
    assert data == gcorefs("stacks", target.pid).stdout


def test_a_bundle_has_the_program(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 3)
    with watching(target, folder, "--when", "threads>1", "--then", "bundle") as watch:
        name = watch.line().partition(":")[0]
    assert names(folder) == [name]
    assert re.fullmatch(rf"bundle\.{target.pid}\.{STAMP}\.tar\.zst", name)
    data = unpacked(folder / name)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        inside = tar.getnames()
    top = name.removesuffix(".tar.zst")
    assert {f"{top}/core", f"{top}/program", f"{top}/manifest.json"} <= set(inside)


def open_files() -> list[str]:
    """What we have open, without the directory that tells it."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(found)


@pytest.fixture
def own_limits() -> Iterator[None]:
    """A bundle raises how many files we may have open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("own_limits")
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_taken_leaves_nothing_open(spawn: Spawn, folder: Path, kind: str) -> None:
    """Else a flight recorder has no descriptors any more after some thousand failures."""
    target = spawn("threads", 1)
    compression = Compression("zstd")
    process = Process(target.pid, task_stat.stat(target.pid).start_time)
    recordings = Recordings(str(folder), target.pid, Bounds(2, 0), form(kind, compression))
    with contextlib.closing(recordings):
        takes = taker(kind, process, Policy(hold="copy"), recordings, compression)
        target.kill()
        name = name_now(recordings)

        def fail() -> None:
            with pytest.raises((GcorefsError, click.ClickException)):
                takes.take(name, lambda: True)

        fail()  # what stays open from the first one on
        before = open_files()
        fail()
        assert open_files() == before
    assert names(folder) == []


def test_what_is_kept_of_another_kind_stays(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 3)
    others = [f"core.{target.pid}.20200101T000000.000Z",
              f"bundle.{target.pid}.20200101T000000.000Z.tar.zst"]  # fmt: skip
    oldest = f"stacks.{target.pid}.20200101T000000.000Z.txt"
    for name in (*others, oldest):
        (folder / name).touch()
    words = ("--when", "threads>1", "--then", "stacks", "--keep", "1")
    with watching(target, folder, *words) as watch:
        name = watch.line().partition(":")[0]
    assert names(folder) == sorted([*others, name])


@pytest.mark.parametrize("then", ["dump", "stacks", "bundle"])
def test_the_death_of_the_process_ends_it_in_good_order(
    spawn: Spawn, folder: Path, then: str
) -> None:
    target = spawn("swell")
    with watching(target, folder, "--when", "rss>1T", "--then", then) as watch:
        eventually(lambda: is_waiting(watch.process.pid))
        target.kill()
        out, err = watch.process.communicate(timeout=60)
    assert (out, err) == (f"process {target.pid} has ended\n", "")
    assert watch.process.returncode == 0
    assert names(folder) == []


def is_waiting(pid: int) -> bool:
    """It has a pidfd and sleeps, so it has begun to watch."""
    try:
        return "poll" in Path(f"/proc/{pid}/wchan").read_text() and any(
            os.readlink(f"/proc/{pid}/fd/{number}") == "anon_inode:[pidfd]"
            for number in os.listdir(f"/proc/{pid}/fd")
        )
    except OSError:
        return False


@pytest.mark.parametrize(
    "words",
    [
        ("--then", "stacks"),
        ("--then", "bundle"),
        ("--compress", "zstd"),
        ("--policy", "hold=precopy"),
        ("--policy", "hold=fork"),
        ("--policy", "hold=copy", "--spool", "/tmp"),
        ("--policy", "@gentle"),
        ("--metrics", "gcorefs.prom"),
    ],
)
def test_an_upgrade_meanwhile_changes_nothing(
    spawn: Spawn,
    folder: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that one needs has been imported before: it may be another version's now, or gone."""
    monkeypatch.chdir(tmp_path)
    imports = Imports(tmp_path)
    target = spawn("swell")
    words = ("--when", "threads>4", *words)
    with watching(target, folder, *words, program=imports.program) as watch:
        eventually(lambda: is_waiting(watch.process.pid))
        imports.begin()
        target.ask("threads 4")
        assert "; threads are " in watch.line()
    imports.assert_none()


FAILS = """
import os

def reach(step, pid):
    if step.name == "ASSEMBLING":
        try:
            os.close(os.open({once!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        raise {error}
"""


@pytest.mark.parametrize("then", ["dump", "stacks", "bundle"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("MemoryError", "gcorefs is out of memory"),
        ("ImportError('no more')", "no more"),
        ("SystemError", "gcorefs is out of memory"),
    ],
)
def test_without_memory_at_one_event_the_next_one_is_tried(
    spawn: Spawn, folder: Path, tmp_path: Path, then: str, error: str, said: str
) -> None:
    reach = FAILS.format(once=str(tmp_path / "once"), error=error)
    short = program(tmp_path, reach=reach)
    target = spawn("threads", 3)
    words = ("--when", "threads>1", "--then", then, "--cooldown", "10ms")
    with watching(target, folder, *words, program=short) as watch:
        assert watch.error() == said
        assert "; threads are 4" in watch.line()


def counts(path: Path) -> dict[str, float]:
    """The numbers of a file of metrics, by short names."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            name = sample.name.removeprefix("gcorefs_").removesuffix("_total")
            found[" ".join([name, *sample.labels.values()])] = sample.value
    return found


def test_metrics_count_what_was_taken(spawn: Spawn, folder: Path, tmp_path: Path) -> None:
    target = spawn("threads", 3)
    path = tmp_path / "gcorefs.prom"
    words = ("--when", "threads>1", "--metrics", path, "--cooldown", "10ms", "--max-per-day", "3")
    with watching(target, folder, *words, "--policy", "@threads") as watch:
        told = [watch.line() for _ in range(3)]
        watch.error()
        found = counts(path)
    sizes = [int(re.search(r"(\d+) bytes", line)[1]) for line in told]  # type: ignore[index]
    stopped = [float(re.search(r"([\d.]+) ms", line)[1]) for line in told]  # type: ignore[index]
    assert found["dumps dump"] == 3
    assert found["bytes"] == sum(sizes)
    assert found["stopped_seconds_count"] == 3
    assert abs(found["stopped_seconds_sum"] * 1e3 - sum(stopped)) < 0.5
    assert found["stopped_seconds_bucket +Inf"] == 3
    assert path.stat().st_mode & 0o777 == 0o644
    assert {each.name for each in tmp_path.iterdir()} == {"cores", "gcorefs.prom"}


def test_a_file_of_metrics_that_cannot_be_written(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 1)
    result = gcorefs("watch", "--metrics", "/nowhere/x.prom", target.pid, folder)
    assert result.returncode == 1
    assert result.stderr == (
        b"Error: /nowhere/x.prom: No such file or directory; make the directory, or name "
        b"another place\n"
    )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with journald(tmp_path) as journal:
        yield journal


def test_the_journal_has_fields_for_each_stop(spawn: Spawn, folder: Path, journal: Journal) -> None:
    target = spawn("threads", 3)
    around = journal.as_service()
    words = ("--when", "threads>1", "--policy", "@threads")
    with watching(target, folder, *words, around=tuple(around)):
        (entry,) = journal.wait_for(1, f"GCOREFS_PID={target.pid}")
        match = re.fullmatch(
            r"(core\.\S+): 4 threads, stopped for (\d+\.\d) ms, (\d+) bytes; threads are 4",
            entry["MESSAGE"],
        )
        assert match, entry["MESSAGE"]
        assert entry["_TRANSPORT"] == "journal"
        assert {name: entry[name] for name in entry if name.startswith("GCOREFS_")} == {
            "GCOREFS_PID": str(target.pid),
            "GCOREFS_KIND": "dump",
            "GCOREFS_STOPPED_USEC": entry["GCOREFS_STOPPED_USEC"],
            "GCOREFS_THREADS": "4",
            "GCOREFS_BYTES": match[3],
            "GCOREFS_FILE": match[1],
            "GCOREFS_CAUSE": "threads are 4",
        }
        assert abs(int(entry["GCOREFS_STOPPED_USEC"]) - float(match[2]) * 1e3) <= 51
        assert entry["PRIORITY"] == "6"
        # Of a sender that is root, the journal looks up the process that the entry is about.
        assert entry["OBJECT_COMM"] == Path(target.argv[0]).name
        assert len(entry["MESSAGE_ID"]) == 32
        target.kill()
        ended = journal.wait_for(2, f"GCOREFS_PID={target.pid}")[1]
        assert ended["MESSAGE"].startswith(f"process {target.pid} has ended")
        assert "MESSAGE_ID" not in ended


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--when", "rss>8Q"], "'rss>8Q': the limit is a size as in rss>500M or rss>8G"),
        (["--when", "load>8"], "'load>8' is no condition; there are rss>8G"),
        (["--when", "cpu>90"], "'cpu>90': the limit is a percentage of one processor"),
        (["--when", "rss>1G/5s"], "only cpu is a mean"),
        (["--when", "rss>1G", "--every", "1s"], "--every and --when exclude each other"),
        (["--then", "stacks"], "--then is an option of --when"),
        (["--cooldown", "1s"], "--cooldown is an option of --when"),
        (["--max-per-day", "1"], "--max-per-day is an option of --when"),
        (["--poll", "1s"], "--poll is an option of --when"),
        (["--when", "rss>1G", "--then", "reboot"], "'reboot' is not one of"),
        (["--when", "rss>1G", "--max-per-day", "0"], "Invalid value for '--max-per-day'"),
        (["--when", "rss>1G", "--level", "3"], "--level is the level of --compress"),
    ],
)
def test_a_wrong_word_gives_one_line(
    spawn: Spawn, folder: Path, words: list[str], text: str
) -> None:
    target = spawn("threads", 1)
    result = gcorefs("watch", *words, target.pid, folder)
    assert result.returncode == 2
    assert text in result.stderr.decode()
    assert b"Traceback" not in result.stderr


def test_what_cannot_be_traced_is_told_at_once(spawn: Spawn, tmp_path: Path) -> None:
    folder = tmp_path / "of-nobody"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    for each in (tmp_path, *tmp_path.parents[:-2]):
        each.chmod(each.stat().st_mode | 0o755)
    target = spawn("threads", 1)
    words = ("watch", "--when", "rss>1T", target.pid, folder)
    result = run(*AS_NOBODY, GCOREFS, *words, cwd="/")
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert b"the kernel does not" in result.stderr


def test_memory_high_without_such_a_group_is_one_line(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 1)
    result = gcorefs("watch", "--when", "memory.high", target.pid, folder)
    assert result.returncode == 1
    assert result.stderr.decode() == (
        "Error: memory.high: the process is in no control group of version 2 that controls memory\n"
    )

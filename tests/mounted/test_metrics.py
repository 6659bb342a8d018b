"""What a mount tells of its stops: counts in a file, and fields in the journal."""

import errno
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import errno_of, eventually, gcorefs, is_free, run
from tests.mounted.journald import Journal, journald
from tests.mounted.test_triggers import counts
from tests.tuned import program

Spawn = Callable[..., Target]


@pytest.fixture
def path(tmp_path: Path, unmounted: Mount) -> Path:
    """The file of metrics of a mount."""
    path = tmp_path / "gcorefs.prom"
    unmounted.words = ["--metrics", str(path)]
    unmounted.make()
    return path


def test_a_mount_begins_with_no_counts(path: Path) -> None:
    found = counts(path)
    assert found.pop("stopped_seconds_count") == 0
    assert set(found.values()) == {0}
    assert path.stat().st_mode & 0o777 == 0o644


def test_each_stop_is_counted_with_what_was_read(
    path: Path, unmounted: Mount, spawn: Spawn
) -> None:
    target = spawn("threads", 3)
    size = len((unmounted / target.pid).read_bytes())
    eventually(lambda: counts(path).get("dumps dump") == 1)
    found = counts(path)
    assert found["bytes"] == size
    assert found["stopped_seconds_count"] == 1
    assert 0 < found["stopped_seconds_sum"] < 60
    (unmounted / target.pid).read_bytes()
    eventually(lambda: counts(path).get("dumps dump") == 2)
    assert sorted(each.name for each in path.parent.iterdir()) == ["gcorefs.prom", "log", "mnt"]


def test_refusals_are_counted_by_their_errno(
    path: Path, unmounted: Mount, spawn: Spawn, strace: Callable[[int], int]
) -> None:
    target = spawn("threads", 1)
    unmounted.expect("another tracer holds it")
    strace(target.pid)
    assert errno_of((unmounted / target.pid).read_bytes) == errno.EBUSY
    eventually(lambda: counts(path).get("errors EBUSY") == 1)
    assert "dumps dump" not in counts(path)


def test_a_reader_never_sees_half_of_the_file(path: Path, unmounted: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    for _ in range(20):
        (unmounted / target.pid).read_bytes()
        assert "gcorefs_stopped_seconds_count" in path.read_text()
    eventually(lambda: counts(path).get("dumps dump") == 20)


def test_a_file_that_cannot_be_written_is_told_at_the_mount(unmounted: Mount) -> None:
    result = gcorefs("mount", "--metrics", "/nowhere/x.prom", unmounted.path)
    assert result.returncode == 1
    assert b"/nowhere/x.prom: No such file or directory" in result.stderr
    assert not unmounted.is_there


def test_without_the_library_a_line_says_so(unmounted: Mount, spawn: Spawn, tmp_path: Path) -> None:
    without = program(tmp_path, first="import sys\nsys.modules['prometheus_client'] = None")
    for words in (("mount", unmounted.path), ("watch", spawn("threads", 1).pid, tmp_path)):
        result = run(without, words[0], "--metrics", tmp_path / "x.prom", *words[1:])
        assert result.returncode == 1
        assert result.stderr == (
            b"Error: --metrics needs prometheus-client, which is not installed: "
            b"pip install 'gcorefs[metrics]'\n"
        )
    assert not unmounted.is_there


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with journald(tmp_path) as journal:
        yield journal


def test_the_journal_has_fields_for_each_stop_of_a_mount(
    unmounted: Mount, spawn: Spawn, journal: Journal
) -> None:
    target = spawn("threads", 3)
    words = journal.as_service(GCOREFS, "mount", "--foreground", unmounted.path)
    with subprocess.Popen(words) as server:
        (ready,) = journal.wait_for(1, "SYSLOG_IDENTIFIER=gcorefs", f"_PID={server.pid}")[:1]
        assert "MESSAGE_ID" not in ready
        # The mount is in the namespace of the journal, too.
        place = Path(f"/proc/{server.pid}/root{unmounted.path}")
        eventually(lambda: place.stat().st_dev != place.parent.stat().st_dev)
        size = len((place / str(target.pid)).read_bytes())
        (entry,) = journal.wait_for(1, f"GCOREFS_PID={target.pid}")
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert entry["MESSAGE"].startswith(f"process {target.pid}: opened by process {os.getpid()}")
    assert entry["GCOREFS_BYTES"] == str(size)
    assert entry["GCOREFS_OPENER_PID"] == str(os.getpid())
    assert entry["GCOREFS_THREADS"] == "4"
    assert int(entry["GCOREFS_STOPPED_USEC"]) > 0
    assert entry["PRIORITY"] == "6"
    assert entry["OBJECT_COMM"] == Path(target.argv[0]).name
    assert json.dumps(entry["MESSAGE_ID"]) != "null"
    eventually(lambda: is_free(target.pid))

"""A /proc, or a /dev, that does not show everything: containers, hidepid=, subset=pid, kernels that
are built without some of it.

Every command runs in its own mount namespace with such a /proc, against a process that lives
outside of it.  The core has the bytes that the process says, or there is no core, and the line says
which file was missing.  The line never says of a living process that it died.
"""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gcorefs.kernel.proc import tasks
from tests.conftest import GCOREFS, Target
from tests.features import needs_bpf
from tests.mounted.conftest import PAGE, assert_refused, eventually, is_free, note_of, run
from tests.mounted.test_account import regions as memory_of
from tests.mounted.test_account import unreadable
from tests.readers.corefile import Core
from tests.readers.test_memory import bounds, regions
from tests.tuned import program

THREADS = 3

UNMOUNTED = 'mountpoint -q "$D/mnt" && umount --lazy "$D/mnt"'
# The commands in "$P" come first.  A server ends with its mount, which ends with the namespace.
PREAMBLE = f"""
G=$1 P=$2 D=$3
mkdir -p $D/mnt
trap '{UNMOUNTED}; true' EXIT
"""
EVERYTHING = """
set -e
$G dump $P -o $D/dump
$G dump --hold copy $P -o $D/dump-copy
$G info --json $P >$D/info
$G mount --log-file $D/log $D/mnt
stat -c %s $D/mnt/$P >$D/estimate
(exec <$D/mnt/$P; head -c 4 >$D/magic; $G status --json --mount $D/mnt >$D/status)
cp $D/mnt/$P $D/cp
ls $D/mnt >$D/ls
$G umount $D/mnt
$G mount --log-file $D/log -o hold=copy $D/mnt
cp $D/mnt/$P $D/cp-copy
$G umount $D/mnt
"""
CORES = ("dump", "dump-copy", "cp", "cp-copy")


def said(target: Target, has_pagemap: bool = True) -> bytes:
    """What a dump says of the pages that nobody can read.  Only pagemap tells guards from them."""
    guards = [] if has_pagemap else memory_of(target, {"guard"})
    pages = sum(end - start for start, end in [*unreadable(target), *guards]) // PAGE
    return b"%d pages could not be read and are zeros\n" % pages


def inside(
    setup: str, script: str, *words: object, gcorefs: Path = GCOREFS
) -> "subprocess.CompletedProcess[bytes]":
    """A script in a mount namespace that `setup` has changed."""
    text = f"set -e\n{PREAMBLE}\n{setup}\n{script}"
    return run("unshare", "--mount", "sh", "-c", text, "-", gcorefs, *words, cwd="/")


@pytest.fixture
def target(spawn: Callable[..., Target], tmp_path: Path) -> Target:
    """A target with several threads and every kind of memory."""
    target = spawn("memory", tmp_path, THREADS)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    return target


EMPTY = "touch $D/empty; chmod 0 $D/empty;"
DEV = "mkdir $D/dev; mount -t tmpfs dev $D/dev; cp -a {} $D/dev; mount --move $D/dev /dev;"


def masked(*names: str, by: str = "/dev/null") -> str:
    """Mask those of these files that this kernel has."""
    one = "[ ! -e /proc/{0} ] || mount --bind {1} /proc/{0};"
    return EMPTY + "".join(one.format(name, by) for name in names)


@dataclass(frozen=True)
class Surroundings:
    setup: str
    unknown: tuple[str, ...] = ()
    """The facts in the note about holes that are not known."""


NO_LOCKS = ("shared_holes_unknown",)
NO_PAGEMAP = ("holes_unknown",)
SURROUNDINGS = {
    "as it is": Surroundings(""),
    "subset=pid": Surroundings("mount -t proc -o subset=pid proc /proc", NO_LOCKS),
    "hidepid=1": Surroundings("mount -t proc -o hidepid=1 proc /proc"),
    "hidepid=2": Surroundings("mount -t proc -o hidepid=2 proc /proc"),
    "hidepid=4": Surroundings("mount -t proc -o hidepid=4 proc /proc"),
    "masked": Surroundings(masked("locks", "meminfo", "kcore", "filesystems"), NO_LOCKS),
    "empty files": Surroundings(masked("locks", "meminfo", "kcore", by="$D/empty"), NO_LOCKS),
    "/proc/sys read-only": Surroundings("mount --bind -o ro /proc/sys /proc/sys"),
    "no /proc/sys": Surroundings("mount -t tmpfs none /proc/sys"),
    "no /dev/shm": Surroundings("umount --lazy /dev/shm || true; mount -t tmpfs none /dev/shm"),
    "hardly a /dev": Surroundings(DEV.format("/dev/fuse /dev/null")),
    "no pagemap": Surroundings(masked("$P/pagemap"), NO_PAGEMAP),
    "no pagemap, no locks": Surroundings(masked("$P/pagemap", "locks"), (*NO_LOCKS, *NO_PAGEMAP)),
    "no syscall": Surroundings(masked("$P/syscall", "$P/environ")),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_core_has_the_bytes_that_the_process_says(
    target: Target, tmp_path: Path, name: str
) -> None:
    surroundings = SURROUNDINGS[name]
    has_pagemap = not {*NO_PAGEMAP} & {*surroundings.unknown}
    result = inside(surroundings.setup, EVERYTHING, target.pid, tmp_path)
    assert (result.returncode, result.stderr) == (0, 2 * said(target, has_pagemap))
    eventually(lambda: is_free(target.pid))
    wanted = regions(target)
    del wanted["dontdump"]
    for path in CORES:
        core = Core(tmp_path / path)
        assert [*core.threads] == tasks.tids(target.pid)
        for region, expected in wanted.values():
            start = bounds(region)[0]
            if core.segment(start).filesz:
                assert core.read(*bounds(region)) == expected, (path, region)
            else:
                assert region["name"] == "reserved"
        policy = note_of((tmp_path / path).read_bytes())["policy"]
        assert {key for key in policy if key.endswith("unknown")} == {*surroundings.unknown}, path
        assert policy["hold"] == policy.get("held", "stop")
    assert json.loads((tmp_path / "info").read_text())["threads"] == THREADS + 1
    (stop,) = json.loads((tmp_path / "status").read_text())
    assert (stop["pid"], stop["state"], stop["threads"]) == (target.pid, "stopped", THREADS + 1)
    assert int((tmp_path / "estimate").read_text()) >= (tmp_path / "cp").stat().st_size
    assert str(target.pid) in (tmp_path / "ls").read_text().split()
    assert "WARNING" not in (tmp_path / "log").read_text()


def test_without_a_dev_there_is_a_dump_and_no_mount(target: Target, tmp_path: Path) -> None:
    script = "$G dump $P -o $D/dump 2>/dev/full; $G mount $D/mnt"
    result = inside("mount -t tmpfs none /dev", script, target.pid, tmp_path)
    assert_refused(result, "there is no /dev/fuse")
    assert (tmp_path / "dump").stat().st_size > 0


def test_without_proc_nothing_is_done(target: Target, tmp_path: Path) -> None:
    for words in (f"dump {target.pid} -o $D/dump", f"info {target.pid}", "mount $D/mnt"):
        result = inside("mount -t tmpfs none /proc", f"$G {words}", target.pid, tmp_path)
        assert_refused(result, "/proc is not mounted, or is that of another pid namespace")
    for words in ("status", "umount $D/mnt", "release 1"):
        result = inside("mount -t tmpfs none /proc", f"$G {words}", target.pid, tmp_path)
        assert_refused(result, "cannot tell what is mounted: /proc/self/mountinfo: No such file")


NEEDED = ("smaps", "auxv", "coredump_filter")


@pytest.mark.parametrize("name", NEEDED)
def test_a_file_that_the_core_needs_is_named(target: Target, tmp_path: Path, name: str) -> None:
    setup = masked(f"$P/{name}")
    words = f"process {target.pid}: ", f"(/proc/{target.pid}/{name}: it is empty)"
    for command in ("dump $P -o $D/dump", "info $P"):
        assert_refused(inside(setup, f"$G {command}", target.pid, tmp_path), *words)
    options = "-o bpf=off --log-file $D/log"
    script = f'$G mount {options} $D/mnt; exec {sys.executable} -c "$4" $D/mnt/$P'
    result = inside(setup, script, target.pid, tmp_path, READ)
    assert result.stdout == b"%d\n" % errno.ENOTSUP
    assert not (tmp_path / "dump").exists()
    log = tmp_path / "log"
    eventually(lambda: "".join(words[1:]) in log.read_text())  # it is written a moment later
    assert "Traceback" not in log.read_text()
    eventually(lambda: is_free(target.pid))


def test_with_bpf_no_core_needs_smaps(target: Target, tmp_path: Path) -> None:
    needs_bpf()
    script = "$G mount --log-file $D/log $D/mnt; head -c 4 $D/mnt/$P"
    result = inside(masked("$P/smaps"), script, target.pid, tmp_path)
    assert (result.returncode, result.stdout) == (0, b"\x7fELF"), result
    eventually(lambda: is_free(target.pid))


READ = """
import os, sys
try:
    os.read(os.open(sys.argv[1], os.O_RDONLY), 1)
except OSError as error:
    print(error.errno)
"""

# What gcorefs runs first: /proc of a kernel that is built without some files, or of a security
# module that refuses them.
FAILING = """
import os

failing = {files}
os_open = os.open

def open_unless_it_fails(path, *arguments, **named):
    name = os.fsdecode(path).rpartition("/")[2] if isinstance(path, (str, bytes)) else ""
    if name in failing:
        raise OSError(failing[name], os.strerror(failing[name]), path)
    return os_open(path, *arguments, **named)

os.open = open_unless_it_fails
"""


@pytest.fixture
def failing(tmp_path: Path) -> Callable[[dict[str, int]], Path]:
    """The command line where the open of files fails, by their name."""
    return lambda files: program(tmp_path, first=FAILING.format(files=files))


# CONFIG_PROC_PAGE_MONITOR has smaps and pagemap, CONFIG_ELF_CORE coredump_filter.
@pytest.mark.parametrize(
    ("files", "named", "number"),
    [
        ({"smaps": errno.ENOENT, "pagemap": errno.ENOENT}, "smaps", errno.ENOTSUP),
        ({"smaps": errno.EACCES}, "smaps", errno.EACCES),
        ({"coredump_filter": errno.EPERM}, "coredump_filter", errno.EACCES),
        ({"mem": errno.ENOENT}, "mem", errno.ENOTSUP),
        ({"auxv": errno.EACCES}, "auxv", errno.EACCES),
        ({"stat": errno.EPERM}, "stat", errno.EACCES),
        ({"status": errno.EACCES}, "status", errno.EACCES),
    ],
    ids=str,
)
def test_what_the_kernel_refuses_or_does_not_have_is_told_as_that(
    target: Target,
    tmp_path: Path,
    failing: Callable[[dict[str, int]], Path],
    files: dict[str, int],
    named: str,
    number: int,
) -> None:
    gcorefs = failing(files)
    what = f"/{named}: {os.strerror(files[named])})"
    for command in ("dump $P -o $D/dump", "info $P"):
        result = inside("", f"$G {command}", target.pid, tmp_path, gcorefs=gcorefs)
        assert_refused(result, f"process {target.pid}: ", what)
    script = f'$G mount --log-file $D/log $D/mnt; exec {sys.executable} -I -c "$4" $D/mnt/$P'
    result = inside("", script, target.pid, tmp_path, READ, gcorefs=gcorefs)
    assert result.stdout == b"%d\n" % number, result
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "died" not in log
    eventually(lambda: is_free(target.pid))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EPERM])
def test_without_a_pagemap_all_is_read(
    target: Target, tmp_path: Path, failing: Callable[[dict[str, int]], Path], number: int
) -> None:
    gcorefs = failing({"pagemap": number})
    result = inside("", "$G dump $P -o $D/dump", target.pid, tmp_path, gcorefs=gcorefs)
    assert (result.returncode, result.stderr) == (0, said(target, has_pagemap=False))
    policy = note_of((tmp_path / "dump").read_bytes())["policy"]
    why = f"/proc/{target.pid}/pagemap: {os.strerror(number)}"
    assert policy["holes_unknown"] == why
    wanted = regions(target)
    core = Core(tmp_path / "dump")
    for name in ("anon_holes", "bss_untouched", "memfd_holes"):
        region, expected = wanted[name]
        assert core.read(*bounds(region)) == expected


def test_a_kernel_without_core_dumps_has_its_default_for_a_filter(
    target: Target, tmp_path: Path, failing: Callable[[dict[str, int]], Path]
) -> None:
    gcorefs = failing({"coredump_filter": errno.ENOENT})
    result = inside("", "$G dump $P -o $D/dump", target.pid, tmp_path, gcorefs=gcorefs)
    assert result.returncode == 0
    assert note_of((tmp_path / "dump").read_bytes())["policy"]["coredump_filter"] == "0x33"

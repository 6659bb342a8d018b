"""`gcorefs-gcore` under the name gcore: what scripts see of it is what they see of gdb's.

Each of them is found through PATH, as scripts and test suites find it.
"""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gcorefs import __version__
from gcorefs.cli import gcore
from gcorefs.steps import Step
from tests.conftest import GCOREFS, Target
from tests.mounted.conftest import (
    AS_NOBODY,
    Pause,
    eventually,
    is_free,
    is_held,
    offset_of,
    reach_of,
)
from tests.tuned import program

OURS = GCOREFS.with_name("gcorefs-gcore")
TOLD = re.compile(r"(Saved corefile .*\n\[Inferior 1 .*|gcore: .*)")
"""What gdb's script prints for people and for other scripts.  If it cannot open a file, it has
stopped the process and says that it has let it go; gcorefs has not."""
NOBODYS = 4194304 - 7
"""A pid that no process has."""


class Ran(NamedTuple):
    status: int
    told: list[str]
    complaint: str
    """The first line of standard error that is no warning."""
    files: list[str]


Gcore = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """PATH, by whose gcore comes first there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gcore").symlink_to(OURS)
    usual = "/usr/bin:/bin"
    return {"ours": f"{folder}:{usual}", "gdb's": usual}


def run(path: str, *words: object, **kwargs: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(word) for word in words],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **kwargs,
    )


@pytest.fixture
def ours(paths: dict[str, str]) -> Gcore:
    return lambda *words, **kwargs: run(paths["ours"], "gcore", *words, **kwargs)


@pytest.fixture(params=["ours", "gdb's"])
def each(request: pytest.FixtureRequest, paths: dict[str, str]) -> Gcore:
    """What must be true of both."""
    return lambda *words, **kwargs: run(paths[request.param], "gcore", *words, **kwargs)


@pytest.fixture
def target(spawn: Callable[..., Target]) -> Iterator[Target]:
    target = spawn("threads", 3)
    yield target
    assert is_free(target.pid)
    assert target.ask("ping") == {"pong": 1}


def outcome(folder: Path, path: str, prefix: tuple[str, ...], words: list[object]) -> Ran:
    """Run a gcore in a folder of its own that everybody may write to."""
    (folder / "sub").mkdir(parents=True)
    folder.chmod(0o777)
    done = run(path, *prefix, "gcore", *words, cwd=folder)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    return Ran(
        done.returncode,
        TOLD.findall(done.stdout),
        complaints[0] if complaints else "",
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")),
    )


PID, OTHER = object(), object()
CASES: list[tuple[list[object], tuple[str, ...]]] = [
    ([PID], ()),
    ([OTHER, PID, OTHER], ()),
    (["-a", PID], ()),
    (["-o", "sub/a b", PID], ()),
    (["-aoc", PID], ()),
    (["-o", "", PID], ()),
    (["-o", "first", "-o", "second", "--", PID], ()),
    ([NOBODYS], ()),
    ([PID, NOBODYS, OTHER], ()),
    (["-o", "missing/x", PID], ()),
    (["-o", "/proc/x", PID], ()),
    (["word"], ()),
    (["0"], ()),
    ([""], ()),
    ([PID, "-a"], ()),
    ([PID], AS_NOBODY),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_what_a_script_sees_is_the_same(
    spawn: Callable[..., Target],
    target: Target,
    paths: dict[str, str],
    tmp_path: Path,
    number: int,
) -> None:
    words, prefix = CASES[number]
    pids = {PID: target.pid, OTHER: spawn("threads", 1).pid if OTHER in words else 0}
    given = [pids.get(word, word) for word in words]
    found = outcome(tmp_path / "1", paths["ours"], prefix, given)
    theirs = outcome(tmp_path / "2", paths["gdb's"], prefix, given)
    assert found._replace(complaint="") == theirs._replace(complaint="")
    assert (found.status == 0) == (found.complaint == "")
    assert found.complaint.startswith(theirs.complaint)


@pytest.mark.parametrize("words", [["-x"], ["-o"], ["--no-such"], []])
def test_a_wrong_use_is_told(each: Gcore, words: list[str], tmp_path: Path) -> None:
    done = each(*words, cwd=tmp_path)
    assert done.returncode == gcore.WRONG_USAGE
    assert done.stdout.startswith("usage:  gcore [-a] [-o prefix] ")
    assert os.listdir(tmp_path) == ["bin"]


def test_a_wrong_option_is_named(ours: Gcore) -> None:
    assert ours("-x").stderr == "gcore: option -x not recognized\n"
    assert ours("-o").stderr == "gcore: option -o requires argument\n"
    assert ours("-\n").stderr == "gcore: option -\\n not recognized\n"


def test_help_and_version_are_those_of_later_gdbs(ours: Gcore) -> None:
    """gdb's script has -h, -v, --help and --version since gdb 17."""
    for word in ("-h", "--help"):
        done = ours(word)
        assert (done.returncode, done.stdout, done.stderr) == (0, gcore.HELP, "")
    for word in ("-v", "--version"):
        done = ours(word)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"gcore (gcorefs) {__version__}\n"


def test_what_belongs_to_gdb_is_accepted(ours: Gcore, target: Target, tmp_path: Path) -> None:
    done = ours("-d", "/missing", "-g", "/missing", "-o", tmp_path / "x", target.pid)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / f"x.{target.pid}").read_bytes().startswith(b"\x7fELF")


def has_dontdump(core: Path, target: Target) -> bool:
    """True if a core has the memory that its program marked with MADV_DONTDUMP."""
    regions = {region["name"]: region for region in target.truth["regions"]}
    start = int(regions["dontdump"]["start"], 16)
    data = core.read_bytes()
    try:
        offset = offset_of(data, start)
    except LookupError:
        return False
    word = int.from_bytes(data[offset : offset + 8], "little")
    return word == start ^ int(target.truth["seed"], 16)


def test_every_byte_is_taken_if_that_is_wanted(
    each: Gcore, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("memory", tmp_path)
    for words in ([], ["-a"]):
        assert each(*words, "-o", tmp_path / "x", target.pid).returncode == 0
        assert has_dontdump(tmp_path / f"x.{target.pid}", target) is bool(words)


def small(tmpfs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64k", tmpfs], check=True)


@pytest.mark.parametrize("old", [None, b"an older core"])
def test_on_a_full_disk_there_is_no_core(
    ours: Gcore, target: Target, tmpfs: Path, old: bytes | None
) -> None:
    """gdb's has status 0 here, says that the core is saved, and leaves what there was room for."""
    small(tmpfs)
    name = tmpfs / f"x.{target.pid}"
    if old is not None:
        name.write_bytes(old)
    done = ours("-o", tmpfs / "x", target.pid)
    assert done.returncode == gcore.FAILED
    assert done.stdout == f"gcore: failed to create {name}\n"
    assert done.stderr.startswith(f"{name}: No space left on device; free some room")
    assert {path: path.read_bytes() for path in tmpfs.iterdir()} == ({name: old} if old else {})


def test_gdb_s_takes_a_full_disk_for_success(
    paths: dict[str, str], target: Target, tmpfs: Path
) -> None:
    """If this fails, gdb has changed, and docs/commands.md says too much."""
    small(tmpfs)
    done = run(paths["gdb's"], "gcore", "-o", tmpfs / "x", target.pid)
    assert (done.returncode, "Saved corefile" in done.stdout) == (0, True)


def test_an_older_core_is_no_success(ours: Gcore, tmp_path: Path) -> None:
    """gdb's script looks only whether there is such a file."""
    old = tmp_path / f"core.{NOBODYS}"
    old.write_bytes(b"old")
    done = ours(NOBODYS, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, f"gcore: failed to create {old.name}\n")
    assert old.read_bytes() == b"old"


@pytest.mark.parametrize("words", [(), ("-o", "core"), ("-o", "./core")])
def test_a_link_in_the_place_of_the_core_is_not_followed(
    ours: Gcore, target: Target, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Whoever may write to the directory knows the pid, and the core may be root's."""
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / f"core.{target.pid}").symlink_to("file")
    done = ours(*words, target.pid, cwd=tmp_path)
    name = f"{words[-1] if words else 'core'}.{target.pid}"
    said = f"Failed to open '{name}' for output. (it is a symbolic link)\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_fifo_in_the_place_of_the_core_gets_nothing(
    ours: Gcore, target: Target, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / f"x.{target.pid}")
    done = ours("-o", "x", target.pid, cwd=tmp_path)
    said = f"Failed to open 'x.{target.pid}' for output. (it is no regular file)\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_the_core_is_for_its_owner_alone(ours: Gcore, target: Target, tmp_path: Path) -> None:
    assert ours("-o", "file", target.pid, cwd=tmp_path).returncode == 0
    assert oct((tmp_path / f"file.{target.pid}").stat().st_mode) == "0o100600"


def test_output_that_nobody_takes_is_no_failure(
    paths: dict[str, str], target: Target, tmp_path: Path
) -> None:
    script = 'gcore "$1" >&- 2>&- && gcore -o full "$1" > /dev/full && gcore -o x "$1" | true'
    script += '; echo "${PIPESTATUS[0]}"'
    done = run(paths["ours"], "bash", "-c", script, "-", target.pid, cwd=tmp_path)
    assert done.stdout == "0\n"
    names = {f"{prefix}.{target.pid}" for prefix in ("core", "full", "x")}
    assert names < set(os.listdir(tmp_path))


def test_a_signal_ends_it_in_good_order(
    paths: dict[str, str], target: Target, tmp_path: Path
) -> None:
    pause = Pause(Step.RECORDED_ALL)
    ours = program(tmp_path / "bin", reach=reach_of([pause], tmp_path / "bin"))
    ours.write_text(ours.read_text().replace("gcorefs.__main__", "gcorefs.cli.gcore"))
    with subprocess.Popen(
        [ours, "-o", str(tmp_path / "x"), str(target.pid)],
        env={"PATH": paths["ours"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        pause.wait()
        assert is_held(target.pid)
        process.send_signal(signal.SIGINT)
        pause.end()
        eventually(lambda: is_free(target.pid))
        said = process.communicate(timeout=60)
    assert (process.returncode, said) == (gcore.INTERRUPTED, (b"", b""))
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


# As pystack's tests do (tests/utils.py, generate_core_file): in the folder, with the pid alone, and
# exactly one file is there then.
def test_a_test_suite_finds_the_one_core(ours: Gcore, tmp_path: Path) -> None:
    program = (
        "import time\ndef waits():\n    print('ready', flush=True)\n    time.sleep(1000)\nwaits()"
    )
    command = ["/usr/bin/python3", "-c", program]
    folder = tmp_path / "suite"
    folder.mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            ours(process.pid, cwd=folder).check_returncode()
        finally:
            process.kill()
    (core,) = folder.glob("core.*")
    pystack = Path(sys.executable).with_name("pystack")
    shown = run(os.environ["PATH"], pystack, "core", "--no-color", core)
    assert (shown.returncode, " in waits" in shown.stdout) == (0, True), shown


# As gdb's (gdb.base/gcorebg.c): a child of the process calls gcore for its parent, which waits for
# it, with the terminal of the session or in another process group.
CHILD_CALLS = """
import os, sys
how, prefix = sys.argv[1:]
parent = os.getpid()
child = os.fork()
if child == 0:
    if how == "detached":
        os.setpgrp()
    words = f"gcore -g /usr/bin/gdb -d '/usr/share/gdb' -o {prefix} {parent}"
    os._exit(os.waitstatus_to_exitcode(os.system(words)))
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("how", ["detached", "standard"])
def test_a_child_takes_a_core_of_its_parent(
    paths: dict[str, str], tmp_path: Path, how: str
) -> None:
    master, slave = pty.openpty()
    command = [
        "setsid",
        "--ctty",
        "--wait",
        sys.executable,
        "-c",
        CHILD_CALLS,
        how,
        f"{tmp_path}/x",
    ]
    environment = {**os.environ, "PATH": paths["ours"]}
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment
    ) as process:
        os.close(slave)
        with open(master, "rb", buffering=0) as terminal:
            said = b""
            try:
                while piece := terminal.read(4096):
                    said += piece
            except OSError:  # the other side is closed (pty(7))
                pass
        assert process.wait(timeout=100) == 0, said
    (core,) = tmp_path.glob("x.*")
    pid = core.name.removeprefix("x.")
    assert said.decode() == (f"Saved corefile {core}\r\n[Inferior 1 (process {pid}) detached]\r\n")


# As programs do that dump themselves: they read the output while they are stopped.
SELF = """
import os, subprocess, sys
prefix, pid = sys.argv[1], os.getpid()
done = subprocess.run(["gcore", "-o", prefix, str(pid)], capture_output=True, text=True)
print(done.stdout.splitlines()[-2].split()[-1], f"{prefix}.{pid}", done.returncode)
"""


def test_a_program_takes_a_core_of_itself(paths: dict[str, str], tmp_path: Path) -> None:
    """The name is taken out of the last line but one, as rig does (rigging/actions/gcore.py)."""
    done = run(paths["ours"], sys.executable, "-c", SELF, tmp_path / "x")
    said, expected, status = done.stdout.split()
    assert (said, status, done.stderr) == (expected, "0", "")
    assert Path(said).read_bytes().startswith(b"\x7fELF")


# As the coredump tool of OpenTelemetry's profiler does (tools/coredump): coredump_filter for all
# mappings of files, no output, and the name that follows from prefix and pid.
def test_the_filter_of_the_process_counts(
    paths: dict[str, str], target: Target, tmp_path: Path
) -> None:
    sizes = []
    for mask in ("0x33", "0x3f"):
        Path(f"/proc/{target.pid}/coredump_filter").write_text(mask)
        subprocess.run(
            ["gcore", "-o", str(tmp_path / mask), str(target.pid)],
            env={"PATH": paths["ours"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=100,
        )
        sizes.append((tmp_path / f"{mask}.{target.pid}").stat().st_size)
    assert sizes[1] > sizes[0] + (1 << 20)  # the code of libc

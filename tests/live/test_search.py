"""The processes that have a name, a program, a control group or an ancestor, found among those of
this machine."""

import os
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat
from gcorefs.kernel.proc.task_stat import Stat
from gcorefs.process import bounded_questions, group_names, search
from gcorefs.process.search import Wanted
from tests.cgroups import group_named
from tests.conftest import Target

Spawn = Callable[..., Target]


def pids(wanted: Wanted) -> list[int]:
    found = search.search(wanted)
    for process in found.processes:
        assert task_stat.stat(process.pid).start_time == process.start_time
    assert found.silent == []
    return [process.pid for process in found.processes]


@pytest.fixture
def copy(build: Callable[[str], Path], tmp_path: Path) -> Path:
    """A program with a name of its own, too long for comm."""
    path = tmp_path / f"threads-{uuid.uuid4().hex}"
    shutil.copy(build("threads"), path)
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., Target]]:
    targets: list[Target] = []

    def run(*command: object, **kwargs: object) -> Target:
        targets.append(Target([str(word) for word in command]))
        return targets[-1]

    yield run
    for target in targets:
        target.kill()


def test_a_name_is_the_whole_name(copy: Path, start: Callable[..., Target]) -> None:
    target = start(copy, 1)
    comm = task_stat.stat(target.pid).comm.decode()
    assert (len(comm), copy.name[:15]) == (15, comm)
    for name in (comm, copy.name):
        assert pids(search.named(name)) == [target.pid], name
    for name in (comm[:14], copy.name[:16], str(copy), "", "THREADS"):
        assert target.pid not in pids(search.named(name)), name


def test_the_name_in_the_first_argument_counts_too(
    copy: Path, start: Callable[..., Target]
) -> None:
    name = uuid.uuid4().hex
    target = start("bash", "-c", 'exec -a "$0" "$@"', f"/nowhere/{name}", copy, 1)
    assert pids(search.named(name)) == [target.pid]
    assert pids(search.named(copy.name)) == [target.pid]
    copy.unlink()
    assert pids(search.named(copy.name)) == [target.pid]
    assert pids(search.named(f"{copy.name} (deleted)")) == []


DEEP = """
import os, sys
program, *words = sys.argv[1:]
name = "d" * 250
for _ in range(17):
    os.mkdir(name)
    os.chdir(name)
os.link(program, "program")
descriptor = os.open("program", os.O_RDONLY)
os.execve(descriptor, words, {})
"""


def test_a_path_that_is_longer_than_a_page_keeps_nobody_from_being_found(
    copy: Path, start: Callable[..., Target]
) -> None:
    name = uuid.uuid4().hex
    script = 'cd "$1" && exec "${@:2}"'
    target = start(
        "bash", "-c", script, "-", copy.parent, sys.executable, "-c", DEEP, copy, name, 1
    )
    with pytest.raises(OSError, match="File name too long"):
        os.readlink(f"/proc/{target.pid}/exe")
    other = start(copy, 1)
    assert pids(search.named(name)) == [target.pid]
    assert pids(search.named(copy.name)) == [other.pid]
    # It has the same file.
    assert pids(search.running(str(copy))) == sorted([target.pid, other.pid])


def test_a_program_is_found_by_its_file(copy: Path, start: Callable[..., Target]) -> None:
    target = start(copy, 1)
    link, other = copy.with_name("link"), copy.with_name("other")
    link.symlink_to(copy.name)
    os.link(copy, other)
    for path in (copy, link, other):
        assert pids(search.running(str(path))) == [target.pid], path
    assert pids(search.running(os.path.relpath(copy))) == [target.pid]
    shutil.copy(copy, copy.with_name("same"))
    assert pids(search.running(str(copy.with_name("same")))) == []


def test_a_program_that_was_deleted_is_found_by_its_path(
    copy: Path, start: Callable[..., Target]
) -> None:
    old = start(copy, 1)
    content = copy.read_bytes()
    copy.unlink()
    assert pids(search.running(str(copy))) == [old.pid]
    copy.write_bytes(content)  # as an update does
    copy.chmod(0o755)
    new = start(copy, 1)
    assert sorted(pids(search.running(str(copy)))) == sorted([old.pid, new.pid])


def test_a_tree_has_all_descendants(spawn: Spawn) -> None:
    truth = spawn("team", 3).truth
    children = truth["children"]

    def tree(pid: int) -> list[int]:
        return [process.pid for process in search.tree(pid).processes]

    assert tree(truth["pid"]) == sorted([truth["pid"], *children, truth["grandchild"]])
    assert tree(children[-1]) == sorted([children[-1], truth["grandchild"]])
    assert tree(children[0]) == [children[0]]
    assert os.getpid() not in tree(os.getpid())
    with pytest.raises(ProcessLookupError):
        search.tree(1 << 22)


def test_kernel_threads_and_the_dead_are_not_found(spawn: Spawn) -> None:
    dead = spawn("threads", 1)
    os.kill(dead.pid, 9)
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    found = pids(lambda pid, stat: True)
    assert dead.pid not in found
    assert os.getpid() not in found
    assert not any(task_stat.stat(pid).is_kernel_thread for pid in found)
    assert os.getppid() in found


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_processes_of_a_group_and_of_those_below_it(spawn: Spawn, version: str) -> None:
    container, unit = uuid.uuid4().hex * 2, f"gcorefs-{uuid.uuid4().hex}"
    inside, outside = spawn("threads", 1), spawn("threads", 1)
    names = (f"{unit}.slice", f"{unit}.service", f"docker-{container}.scope")
    with group_named(version, *names) as group:
        group.add(inside.pid)
        questions = [
            group_names.in_container(container[:12]),
            group_names.below(f"/{unit}.slice", ()),
            group_names.below(f"/{'/'.join(names)}", ()),
        ]
        questions += [group_names.in_unit(unit), group_names.in_unit(f"{unit}.slice")]
        for question in questions:
            assert pids(search.in_group(question)) == [inside.pid]
        group.add(outside.pid)
        assert pids(search.in_group(questions[0])) == sorted([inside.pid, outside.pid])


def test_a_process_that_does_not_answer_is_named(spawn: Spawn) -> None:
    silent, other = spawn("threads", 1), spawn("threads", 1)
    may_answer = threading.Event()

    def is_meant(pid: int, stat: Stat) -> bool:
        if pid == silent.pid:
            may_answer.wait(60)
        return pid in (silent.pid, other.pid)

    try:
        found = search.search(is_meant)
        assert [each.pid for each in found.processes] == [other.pid]
        assert found.silent == [silent.pid]
    finally:
        may_answer.set()
    bounded_questions.wait_for_answers()
    assert [each.pid for each in search.search(is_meant).processes] == sorted(
        [silent.pid, other.pid]
    )

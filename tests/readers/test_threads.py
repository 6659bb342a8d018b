"""Which thread gdb, lldb and drgn begin with, and that they list every one, where the leader is
dead, where threads did not stop, and where threads come and go.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Mount, Target
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb, lldb, run

Where = Callable[[Target], Path]

# drgn lists them in an order of its own, and takes the first PRSTATUS for the one that crashed.
DRGN = """
import drgn, json, sys
program = drgn.Program()
program.set_core_dump(sys.argv[1])
print(json.dumps([program.crashed_thread().tid, sorted(each.tid for each in program.threads())]))
"""


@pytest.fixture(params=["copy", "mounted file"])
def core_of(request: pytest.FixtureRequest, dump: Callable[[int], Path]) -> Where:
    """A core to read, copied or in place."""
    if request.param == "copy":
        return lambda target: dump(target.pid)
    mount: Mount = request.getfixturevalue("mount")
    return lambda target: mount / target.pid


def marked(listed: list[tuple[str, str]]) -> tuple[int, list[int]]:
    (current,) = (int(tid) for mark, tid in listed if mark == "*")
    return current, sorted(int(tid) for _, tid in listed)


def in_gdb(program: Path, core: Path) -> tuple[int, list[int]]:
    """The thread that it begins with, and all that it has registers of.

    libthread_db tells it of a dead leader as well, which is "(Exiting)".
    """
    text = gdb(program, core, "--", "info threads")
    found = re.findall(r"^([* ]) +\d+ +.*?LWP (\d+)\)(?! \(Exiting\))", text, re.MULTILINE)
    return marked(found)


def in_lldb(program: Path, core: Path) -> tuple[int, list[int]]:
    text = lldb(program, core, "thread list")
    return marked(re.findall(r"^([* ]) thread #\d+: tid = (\d+),", text, re.MULTILINE))


def in_drgn(core: Path) -> tuple[int, list[int]]:
    current, listed = json.loads(run(sys.executable, "-c", DRGN, core)[0])
    return current, listed


def assert_all_begin_with(target: Target, core: Path, current: int, tids: list[int]) -> None:
    program = Path(target.argv[0])
    assert in_gdb(program, core) == (current, sorted(tids))
    assert in_lldb(program, core) == (current, sorted(tids))
    assert in_drgn(core) == (current, sorted(tids))


def test_the_leader_comes_first(spawn: Callable[..., Target], core_of: Where) -> None:
    target = spawn("threads", 3)
    tids = [target.pid, *(thread["tid"] for thread in target.truth["threads"])]
    assert_all_begin_with(target, core_of(target), target.pid, tids)


def test_where_the_leader_is_dead_another_comes_first(
    spawn: Callable[..., Target], core_of: Where
) -> None:
    target = spawn("churn", "leader")
    tids = target.truth["tids"]
    assert_all_begin_with(target, core_of(target), min(tids), tids)


@pytest.mark.parametrize("who", ["leader", "another"])
def test_a_thread_that_did_not_stop_never_comes_first(
    spawn: Callable[..., Target], core_of: Where, who: str
) -> None:
    target = spawn("vforker", *(["leader"] if who == "leader" else []))
    truth = target.truth
    assert (truth["vfork_tid"] == target.pid) == (who == "leader")
    stopped = {truth["server_tid"], *truth["tids"]}
    core = core_of(target)
    first = min(truth["tids"]) if who == "leader" else target.pid
    assert_all_begin_with(target, core, first, [*stopped, truth["vfork_tid"]])
    assert target.ask("release") == {"released": True}


def test_what_gdb_shows_of_a_thread_that_did_not_stop_is_what_is_known_of_it(
    spawn: Callable[..., Target], dump: Callable[[int], Path]
) -> None:
    target = spawn("vforker", "leader")
    core = dump(target.pid)
    assert list(Core(core).threads)[-1] == target.pid
    text = gdb(target.argv[0], core, "--", "thread 5", "info registers rip xmm0 fctrl k0", "bt 1")
    assert f"(LWP {target.pid}))]" in text
    assert re.search(r"^rip .*<__libc_vfork\+\d+>$", text, re.MULTILINE)
    # Which floating point registers it has nobody asked: gdb is told nothing of them.
    assert re.search(r"^xmm0 .*uint128 = <unavailable>}$", text, re.MULTILINE)
    assert re.search(r"^fctrl +<unavailable>$", text, re.MULTILINE)
    assert re.search(r"^#0 .*vfork", text, re.MULTILINE)
    assert target.ask("release") == {"released": True}


def test_threads_that_die_at_the_stop_are_in_no_list(
    spawn: Callable[..., Target], dump: Callable[[int], Path]
) -> None:
    target = spawn("churn", "threads")
    program = Path(target.argv[0])
    for _ in range(3):
        core = dump(target.pid)
        leader, *others = Core(core).threads
        assert leader == target.pid
        assert others == sorted(others)
        assert len(others) >= 4  # the spawners
        tids = sorted([leader, *others])
        # gdb's libthread_db also knows those whose end pthread_join has not yet seen.
        current, listed = in_gdb(program, core)
        assert current == target.pid
        assert set(listed) >= set(tids)
        assert in_lldb(program, core) == (target.pid, tids)
        assert in_drgn(core) == (target.pid, tids)

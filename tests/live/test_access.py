"""An opener that we cannot look at is unknown; one with our own credentials needs no thread."""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gcorefs.kernel.proc import task_stat, tasks
from gcorefs.process import access
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import Target

USER = 4001
AS_USER = ("groups=", f"gid={USER},{USER},{USER}", f"uid={USER},{USER},{USER}")


def test_openers_whom_the_kernel_judges_alike_have_equal_credentials() -> None:
    """A user may have a thousand openers, which are judged once (mount/cores.py)."""
    first, second = Opener(7, 1000, 100, (5,), EVERY), Opener(8, 1000, 100, (5,), EVERY)
    assert first != second
    assert first.credentials == second.credentials
    others = [
        replace(first, uid=1001),
        replace(first, gid=101),
        replace(first, groups=()),
        replace(first, capabilities=0),
    ]
    assert first.credentials not in {each.credentials for each in others}


def test_a_thread_of_the_kernel_cannot_be_judged() -> None:
    """It acts for others, as the NFS server does, but shows its own credentials."""
    kthreadd = 2
    with pytest.raises(ProcessError, match="a thread of the kernel") as caught:
        access.identify(kthreadd, 0, 0, os.getpid())
    assert caught.value.reason is Reason.UNKNOWN_OPENER


def test_without_root_an_opener_that_is_not_dumpable_is_not_known(
    spawn: Callable[..., Target],
) -> None:
    """The kernel does not show us its user namespace (proc(5), /proc/PID/ns)."""
    opener = spawn("identity", *AS_USER)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            access.identify(opener.pid, USER, USER, os.getpid())
        except ProcessError as error:
            status = 0 if error.reason is Reason.UNKNOWN_OPENER else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


EVERY = (1 << 64) - 1
SYS_PTRACE, WAKE_ALARM = 1 << 19, 1 << 35


@pytest.mark.parametrize(
    ("change", "is_asked_in_a_thread"),
    [
        ({}, False),
        ({"groups": (os.getegid(), *os.getgroups())}, False),
        ({"groups": (USER, *os.getgroups())}, True),
        ({"uid": USER}, True),
        ({"gid": USER}, True),
        ({"capabilities": EVERY & ~SYS_PTRACE}, True),
        ({"capabilities": EVERY & ~WAKE_ALARM}, True),
        ({"capabilities": 0}, True),
    ],
    ids=str,
)
def test_an_opener_with_our_credentials_is_judged_without_a_thread(
    spawn: Callable[..., Target],
    tune: Callable[[Tuning], None],
    change: dict[str, Any],
    is_asked_in_a_thread: bool,
) -> None:
    target = spawn("threads", 1)
    same = Opener(os.getpid(), os.geteuid(), os.getegid(), tuple(os.getgroups()), EVERY)
    asked: list[bool] = []

    def note_who_asks(step: Step, pid: int) -> None:
        if step is Step.BEFORE_DOOR:
            asked.append(threading.current_thread() is not threading.main_thread())

    tune(Tuning(reach=note_who_asks))
    before = own_capabilities()
    with contextlib.suppress(ProcessError):
        access.check(replace(same, **change), target.pid)
    assert asked == [is_asked_in_a_thread]
    assert own_capabilities() == before


def own_capabilities() -> str:
    """The capabilities of this thread, and the text after them in its status."""
    return Path("/proc/thread-self/status").read_text().split("\nCapPrm")[1].split("Cpus")[0]


@pytest.mark.usefixtures("nothing_is_collected")
@pytest.mark.parametrize("uid", [os.geteuid(), USER])
def test_a_refusal_keeps_nothing(uid: int) -> None:
    class Heavy:
        pass

    def refused(_: Heavy) -> None:
        with contextlib.suppress(ProcessError):
            access.check(Opener(os.getpid(), uid, uid, (), EVERY), 1 << 22)

    kept = Heavy()
    seen = weakref.ref(kept)
    refused(kept)
    del kept
    assert seen() is None


def test_one_that_is_gone_is_not_there_for_us_either() -> None:
    same = Opener(os.getpid(), os.geteuid(), os.getegid(), tuple(os.getgroups()), EVERY)
    with pytest.raises(ProcessError) as caught:
        access.check(same, 1 << 22)
    assert caught.value.reason is Reason.GONE


A_USER = Opener(1, USER, USER, (), 0)


def test_the_kernel_judges_each_thread(spawn: Callable[..., Target]) -> None:
    """The registers of a thread are those of somebody else if its credentials are."""
    target = spawn("split", USER, "thread")
    access.check(A_USER, target.pid, [target.pid])
    for tids in (None, [target.truth["other"]]):
        with pytest.raises(ProcessError) as caught:
            access.check(A_USER, target.pid, tids)
        assert caught.value.reason is Reason.DENIED
    access.check(replace(A_USER, uid=0, gid=0, capabilities=EVERY), target.pid)


def test_a_worker_of_the_kernel_denies_nobody(spawn: Callable[..., Target]) -> None:
    """It has no registers in a core, and the credentials of whoever made the ring."""
    target = spawn("split", USER, "poller")
    (worker,) = set(tasks.tids(target.pid)) - {target.pid}
    assert task_stat.stat(target.pid, worker).is_worker
    access.check(A_USER, target.pid)


def test_a_thread_that_is_gone_denies_nobody(spawn: Callable[..., Target]) -> None:
    target = spawn("split", USER, "poller")
    access.check(A_USER, target.pid, [target.pid, os.getpid()])

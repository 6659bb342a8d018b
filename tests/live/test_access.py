"""An opener that cannot be looked at is not known."""

import os
from collections.abc import Callable

import pytest

from gcorefs.process import access
from gcorefs.process.errors import ProcessError, Reason
from tests.conftest import Target

USER = 4001
AS_USER = ("groups=", f"gid={USER},{USER},{USER}", f"uid={USER},{USER},{USER}")


def test_a_thread_of_the_kernels_own_is_nobody_to_judge() -> None:
    """It acts for others, as the NFS server does, and shows its own credentials."""
    kthreadd = 2
    with pytest.raises(ProcessError, match="the kernel's own") as caught:
        access.identify(kthreadd, 0, 0, os.getpid())
    assert caught.value.reason is Reason.UNKNOWN_OPENER


def test_without_root_an_opener_that_is_not_dumpable_is_not_known(
    spawn: Callable[..., Target],
) -> None:
    """Its user namespace is not shown to us (proc(5), /proc/PID/ns)."""
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

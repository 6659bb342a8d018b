"""A look-up that takes long holds up no other look-up in the same directory, and no listing."""

import errno
import os
import subprocess
from collections.abc import Callable

from tests.conftest import Mount, Target
from tests.mounted.conftest import Pause, run
from tests.mounted.test_exact import exact

NOBODY_HAS_IT = 999_999_999
"""No pid (PID_MAX_LIMIT), so that the answer takes no look at /proc."""


def test_a_stop_for_a_size_holds_up_no_look_up_and_no_listing_beside_it(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    stop = Pause("gcorefs.sources.tracer", "Tracer.start")
    mount = paused(stop)
    first, second = spawn("mapper"), spawn("mapper")
    with subprocess.Popen(
        ["stat", "-c", "%F", exact(mount, first.pid)], stdout=subprocess.PIPE
    ) as asking:
        stop.wait()
        missing = run("stat", exact(mount, NOBODY_HAS_IT))
        listed = run("ls", "-f", exact(mount, first.pid).parent)
        found = run("stat", "-c", "%F", exact(mount, second.pid))
        assert asking.poll() is None, "the others waited for the first"
        stop.end()
        assert asking.communicate()[0] == b"regular file\n"
    assert os.strerror(errno.ENOENT).encode() in missing.stderr
    assert sorted(listed.stdout.split()) == [b".", b".."]
    assert found.stdout == b"regular file\n"
    for target in (first, second):  # whoever looks it up is expected to open it
        assert run("head", "-c", 4, exact(mount, target.pid)).stdout == b"\x7fELF"

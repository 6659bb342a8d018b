"""A look-up that takes long holds up no other look-up in the same directory, and no listing."""

import errno
import os
import subprocess
from collections.abc import Callable

from gcorefs.steps import Step
from tests.conftest import Mount, Target, text_of
from tests.mounted.conftest import AS_NOBODY, Pause, opened, run, user
from tests.mounted.test_exact import exact
from tests.mounted.test_meanwhile import AS_USER, USER

NOBODY_HAS_IT = 999_999_999
"""No pid (PID_MAX_LIMIT), so that the answer takes no look at /proc."""


def test_a_stop_for_a_size_holds_up_no_look_up_and_no_listing_beside_it(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    stop = Pause(Step.STARTING)
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


def test_a_stop_for_one_who_would_change_the_directory_holds_up_no_other_user(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    """The kernel looks a name up with the lock of the directory, and asks for permission afterwards
    (fs/namei.c, filename_create)."""
    stop = Pause(Step.STARTING)
    mount = paused(stop)
    theirs, ours = spawn("identity", *AS_USER), spawn("mapper")
    changing = text_of((*user(USER), "mkdir", exact(mount, theirs.pid)))
    with subprocess.Popen(changing, stderr=subprocess.PIPE) as mkdir:
        stop.wait()
        found = run("stat", "-c", "%F", exact(mount, ours.pid))
        assert mkdir.poll() is None, "root waited for it"
        stop.end()
        assert os.strerror(errno.EEXIST).encode() in mkdir.communicate()[1]
    assert found.stdout == b"regular file\n"
    assert run("head", "-c", 4, exact(mount, ours.pid)).stdout == b"\x7fELF"
    read = run(*user(USER), "head", "-c", 4, exact(mount, theirs.pid))
    assert read.stdout == b"\x7fELF"


def test_each_user_has_a_directory_that_stays_theirs(
    everybodys: Mount, spawn: Callable[..., Target]
) -> None:
    folder = exact(everybodys, 1).parent
    before = os.stat(folder).st_ino
    with opened(folder, os.O_DIRECTORY) as ours:
        theirs = run(*AS_NOBODY, "stat", "-c", "%i", folder)
        assert int(theirs.stdout) != before
        assert (os.fstat(ours).st_ino, os.stat(folder).st_ino) == (before, before)
        pid = spawn("mapper").pid
        file = os.open(str(pid), os.O_RDONLY, dir_fd=ours)
        assert os.read(file, 4) == b"\x7fELF"
        os.close(file)
        listed = {entry.name: entry.inode() for entry in os.scandir(folder.parent)}
        assert listed["exact"] == before

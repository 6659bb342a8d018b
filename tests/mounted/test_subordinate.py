"""A user who has many uids in a user namespace (subuid(5), newuidmap(1)) has one share."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.mounted.conftest import eventually, run, user
from tests.turns import alone

OWNER = 54_321
FIRST = 3_000_000_000
"""The first of their subordinate uids.  No test machine has given it to anybody."""

# It runs in its own namespace, whose map comes from outside: a directory for each of its users.
MANY = """
import ctypes, json, os, sys
assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0  # CLONE_NEWUSER
print(os.getpid(), flush=True)
sys.stdin.readline()
os.setresuid(0, 0, 0)
errnos = []
for uid in range(1, 6):
    os.seteuid(uid)
    try:
        os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
        errnos.append(0)
    except OSError as error:
        errnos.append(error.errno)
    os.seteuid(0)
print(json.dumps(errnos), flush=True)
sys.stdin.readline()
"""

# The program of a set-uid file: it becomes the owner of the file altogether, and opens its cores.
AS_ANOTHER = """
import ctypes, json, os, signal, sys
uid = os.geteuid()
os.setresuid(uid, uid, uid)
ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE
errnos, children = [], []
for _ in range(2):
    child = os.fork()
    if child == 0:
        signal.pause()
    children.append(child)
    try:
        os.open(f"{sys.argv[1]}/{child}", os.O_RDONLY)
        errnos.append(0)
    except OSError as error:
        errnos.append(error.errno)
print(json.dumps([uid, errnos]), flush=True)
sys.stdin.readline()
for child in children:
    os.kill(child, signal.SIGKILL)
"""


@pytest.fixture
def subuid(tmp_path: Path) -> Iterator[None]:
    """Our own table of subordinate uids, in the place of the machine's table."""
    table = tmp_path / "subuid"
    table.write_text(f"{OWNER}:{FIRST}:65536\n")
    subprocess.run(["mount", "--bind", table, "/etc/subuid"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "/etc/subuid"], check=True)


@alone  # it changes /etc/subuid
def test_all_of_a_user_s_uids_have_one_share(
    subuid: None, mount_with: Callable[..., Mount]
) -> None:
    mount = mount_with("allow_other,user_files=3")
    mount.expect("the mount: its opener has too many open files")
    command = [*user(OWNER), "/usr/bin/python3", "-c", MANY, str(mount.path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as many:
        assert many.stdin is not None
        assert many.stdout is not None
        pid = int(many.stdout.readline())
        # newuidmap(1), which is set-uid root, writes the same.
        Path(f"/proc/{pid}/uid_map").write_text(f"0 {FIRST} 65536\n")
        many.stdin.write("\n")
        assert json.loads(many.stdout.readline()) == [0, 0, 0, errno.EMFILE, errno.EMFILE]
        as_owner = [*user(OWNER), "ls", mount.path]
        assert b"Too many open files" in run(*as_owner).stderr
        assert run(*user(OWNER + 1), "ls", mount.path).stdout != b""
        assert os.listdir(mount.path)
        many.stdin.close()
    eventually(lambda: run(*as_owner).returncode == 0)


@alone  # it changes /etc/subuid
def test_a_user_who_becomes_another_by_a_set_uid_file_has_the_same_share(
    subuid: None, mount_with: Callable[..., Mount], tmp_path: Path
) -> None:
    """In a user namespace the owner may make a set-uid file of each of their uids.  Outside of it
    the file still makes them that user, who is judged and let in."""
    mount = mount_with("allow_other,user_stops=1,max_stops=3")
    mount.expect("its opener holds too many processes (user_stops=)")
    tmp_path.chmod(0o755)
    python = Path(shutil.copy("/usr/bin/python3", tmp_path / "python3"))
    with contextlib.ExitStack() as stack:
        found = []
        for uid in (FIRST, FIRST + 1):
            os.chown(python, uid, uid)
            python.chmod(0o4755)
            command = [*user(OWNER), str(python), "-I", "-c", AS_ANOTHER, str(mount.path)]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert process.stdout is not None
            found.append(json.loads(process.stdout.readline()))
        assert found == [
            [FIRST, [0, errno.EMFILE]],
            [FIRST + 1, [errno.EMFILE, errno.EMFILE]],
        ]


@alone  # it changes /etc/subuid
def test_status_files_of_a_user_s_uids_have_one_share(
    subuid: None, mount_with: Callable[..., Mount]
) -> None:
    mount = mount_with("allow_other")
    mount.expect("the mount: its opener has too many open files")
    status = mount.path / ".gcorefs" / "status"
    opens = "import os, sys; [os.open(sys.argv[1], os.O_RDONLY) for _ in range(20)]"
    held = f"{opens}; print(flush=True); input()"
    with subprocess.Popen(
        [*user(FIRST), "/usr/bin/python3", "-c", held, status],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "\n"
        second = [*user(FIRST + 1), "/usr/bin/python3", "-c", opens, status]
        assert b"Too many open files" in run(*second).stderr
        assert run(*user(OWNER + 1), "/usr/bin/python3", "-c", opens, status).returncode == 0
        first.communicate("\n")

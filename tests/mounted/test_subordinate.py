"""A user who has many uids in a user namespace (subuid(5), newuidmap(1)) has one share."""

import errno
import json
import os
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

"""An open file is a right that can be passed on, like an open /proc/PID/mem.  Every process that
has the file reads it, and gets only what was opened."""

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Mount, Target, text_of
from tests.mounted.conftest import (
    AS_NOBODY,
    NOBODY,
    eventually,
    is_free,
    is_held,
    memory_offset,
    opened,
    run,
    whole,
)

# Receives a file over the socket that is its standard input, and prints what it reads of the header
# and of memory.
RECEIVE = """
import os, socket
channel = socket.socket(fileno=0)
print("ready", flush=True)
_, (fd,), _, _ = socket.recv_fds(channel, 1, 1)
header = os.pread(fd, 4096, 0)
print(header[:4].hex(), flush=True)
try:
    print(os.pread(fd, 4, int.from_bytes(header[128:136], "little")).hex(), flush=True)
except OSError as error:
    print(os.strerror(error.errno), flush=True)
"""


class Receiver:
    """RECEIVE, run by a command before it."""

    def __init__(self, *words: str) -> None:
        self.socket, theirs = socket.socketpair()
        # Debian's own: other users may not be able to reach another interpreter.
        command = [*words, "/usr/bin/python3", "-c", RECEIVE]
        self.popen = subprocess.Popen(
            text_of(command), stdin=theirs.fileno(), stdout=subprocess.PIPE
        )
        theirs.close()
        assert self.line() == b"ready\n"

    def line(self) -> bytes:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def end(self) -> None:
        self.socket.close()
        self.popen.kill()
        self.popen.communicate(timeout=20)


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def start(*words: str) -> Receiver:
        made.append(Receiver(*words))
        return made[-1]

    yield start
    for each in made:
        each.end()


def test_sent_over_a_socket_it_is_read_by_one_who_may_not_open_it(
    everybodys: Mount, spawn: Callable[..., Target], receiver: Callable[..., Receiver]
) -> None:
    target, nobody = spawn("threads", 1), receiver(*AS_NOBODY)
    path = everybodys / target.pid
    assert run(*AS_NOBODY, "head", "-c", "4", path).stdout == b""
    with opened(path) as fd:
        data = whole(fd)
        socket.send_fds(nobody.socket, [b"x"], [fd])
    start = memory_offset(data)
    assert nobody.line() == data[:4].hex().encode() + b"\n"
    assert nobody.line() == data[start : start + 4].hex().encode() + b"\n"
    eventually(lambda: is_free(target.pid))  # the receiver's end has closed the last descriptor
    assert nobody.popen.wait(timeout=20) == 0


def test_a_process_that_drops_its_ids_keeps_it(
    everybodys: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    with opened(everybodys / target.pid) as fd:
        assert run(*AS_NOBODY, "head", "-c", "4", stdin=fd).stdout == b"\x7fELF"


def test_a_set_uid_program_reads_what_its_user_opened_and_no_more(
    everybodys: Mount, tmp_path: Path, spawn: Callable[..., Target]
) -> None:
    user = ("groups=", f"gid={NOBODY},{NOBODY},{NOBODY}", f"uid={NOBODY},{NOBODY},{NOBODY}")
    own, roots = spawn("identity", *user, "dumpable=1"), spawn("threads", 1)
    program = tmp_path / "head"
    shutil.copy("/usr/bin/head", program)
    program.chmod(0o4755)
    script = 'exec "$1" -c 4 < "$2"'
    for pid, read in ((own.pid, b"\x7fELF"), (roots.pid, b"")):
        result = run(*AS_NOBODY, "sh", "-c", script, "-", program, everybodys / pid)
        assert result.stdout == read
    # Its own opens are judged as its own, as with /proc/PID/mem.
    assert run(*AS_NOBODY, program, "-c", "4", everybodys / roots.pid).stdout == b"\x7fELF"


def test_to_the_process_itself_it_is_a_stop_that_the_idle_limit_ends(
    mount_with: Callable[..., Mount], receiver: Callable[..., Receiver]
) -> None:
    mount = mount_with("idle_timeout=1")
    itself = receiver()
    pid = itself.popen.pid
    mount.expect(f"process {pid}: let go, its file was not read for 1 s")
    mount.expect(f"process {pid}: the process was let go: its memory is no longer")
    with opened(mount / pid) as fd:
        eventually(lambda: is_held(pid))
        socket.send_fds(itself.socket, [b"x"], [fd])
    # Only this process could close the file now, and it stands still.
    assert itself.line() == b"7f454c46\n"
    assert itself.line() == os.strerror(errno.EIO).encode() + b"\n"
    assert itself.popen.wait(timeout=20) == 0

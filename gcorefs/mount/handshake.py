"""FUSE_INIT, with two things that libfuse does not send: FUSE_PARALLEL_DIROPS and max_background.

Without the flag, the kernel looks up one name in a directory at a time, and lists nothing meanwhile
(fs/fuse/inode.c, fuse_lock_inode).  A look-up below .gcorefs/exact takes as long as a stop, and any
user can make a stop take longer.  So any user could keep all others out, and signals would not
reach those who wait.  libfuse passes the flag on since 3.16.2 only, and pyfuse3 never asks for it.

The kernel sends asynchronous reads, what it reads ahead, and each FUSE_RELEASE as background
requests.  By default only 12 may be under way (fs/fuse/inode.c, FUSE_DEFAULT_MAX_BACKGROUND;
dev.c, flush_bg_queue).  So 12 waiting reads of one user would keep us from hearing that others
have closed their files, whose processes stand still.  We bound what is under way, for each
user (limits.py).  pyfuse3 cannot set max_background.

So while libfuse answers this one request, the descriptor of the session is our socket.  We change
the answer and write it to the kernel.
"""

import os
import socket
import stat
import struct

import pyfuse3
import trio

_LONGEST = 64 << 10
"""Bytes: more than the shortest read that the kernel accepts (FUSE_MIN_READ_BUFFER)."""

# include/uapi/linux/fuse.h: fuse_in_header and fuse_init_in, fuse_out_header and fuse_init_out.
_REQUEST = struct.Struct("<IIQ24xIIII")  # len, opcode, unique; major, minor, readahead, flags
# len, error, unique; major, minor, readahead, flags, max_background, congestion_threshold
_ANSWER = struct.Struct("<IiQIIIIHH")
_FUSE_INIT = 26
_PARALLEL_DIROPS = 1 << 18
_NO_LIMIT = 0xFFFF
"""Of background requests.  If an ordinary user has mounted, the kernel takes less (fs/fuse/inode.c,
process_init_limits)."""


def fuse_descriptors() -> set[int]:
    """The descriptors of this process that are open on /dev/fuse."""
    device = os.stat("/dev/fuse").st_rdev
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            status = os.fstat(number)
        except OSError:  # listdir has closed its own
            continue
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == device:
            found.add(number)
    return found


async def shake_hands(session: int) -> None:
    """Answer FUSE_INIT.  Call this between pyfuse3.init and pyfuse3.main.

    `session`: the descriptor of /dev/fuse that libfuse uses.  OSError: the mount is gone.
    """
    device = os.dup(session)
    try:
        await trio.lowlevel.wait_readable(device)
        request = os.read(device, _LONGEST)
        answer = await _answer(session, device, request)
    finally:
        os.close(device)
    os.write(session, improved(request, answer))


async def _answer(session: int, device: int, request: bytes) -> bytes:
    """What libfuse answers to `request`."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with its:
            os.dup2(its.fileno(), session, inheritable=False)
        try:
            ours.send(request)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pyfuse3.main, 1, 1)
                await trio.lowlevel.wait_readable(ours)
                nursery.cancel_scope.cancel()  # it waits for the next request
            return ours.recv(_LONGEST)
        finally:
            os.dup2(device, session, inheritable=False)


def improved(request: bytes, answer: bytes) -> bytes:
    """The answer to FUSE_INIT, with the flag if the kernel knows it, and without a limit of
    background requests."""
    _, opcode, unique, *_, offered = _REQUEST.unpack_from(request)
    if opcode != _FUSE_INIT or len(answer) < _ANSWER.size:
        return answer  # an error has no more than a header
    size, error, about, major, minor, readahead, flags, _, _ = _ANSWER.unpack_from(answer)
    if about != unique:
        return answer
    flags |= offered & _PARALLEL_DIROPS
    fields = size, error, about, major, minor, readahead, flags, _NO_LIMIT, _NO_LIMIT
    head = _ANSWER.pack(*fields)
    return head + answer[len(head) :]

"""Loads the program, and learns what the bits of vm_flags mean.

A child does both, and ends.  So what libbpf has read (the types of the whole kernel) takes no
memory of ours and of the workers that are forked from us, and an error in it cannot end us.  We get
a descriptor of the program, with which bpf(2) makes an iterator for each stop.
"""

import json
import os
import select
import socket
from typing import NoReturn

from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.elfcore.vm_bits import UnknownBits, VmBits, learned
from gcorefs.elfcore.vma import MapsError, VmFlag
from gcorefs.elfcore.vma_rows import words_of
from gcorefs.errors import GcorefsError
from gcorefs.kernel import libbpf
from gcorefs.kernel.proc import address_space
from gcorefs.sources.bpf.mappings import Program, rows
from gcorefs.sources.bpf.samples import samples

_OBJECT = os.path.join(os.path.dirname(__file__), "mappings.bpf.o")
_PROGRAM = "gcorefs_mappings"
_BTF = "/sys/kernel/btf/vmlinux"
_TIMEOUT = 10.0
"""Seconds for the child, which needs a tenth of one.  The kernel checks the program meanwhile."""
_LONGEST = 1 << 16
_LAST_OF_ENTRY = b"\nVmFlags:"


class NoBpf(GcorefsError):
    """BPF cannot be had.  The text says why, in half a line."""


def load() -> Program:
    """The program, ready for any process.  NoBpf.  The caller has one thread."""
    for path, what in ((_OBJECT, "mappings.bpf.o was not built"), (_BTF, "the kernel has no BTF")):
        if not os.path.exists(path):
            raise NoBpf(what)
    try:
        return _load()
    except OSError as error:
        raise NoBpf(f"no child to load it: {error.strerror}") from error


def _load() -> Program:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            pid = os.fork()
            if pid == 0:
                _be_loader(theirs)
        # A service may not call kill(2).  So a child that hangs is left alone: it holds nobody.
        if not select.select([ours], [], [], _TIMEOUT)[0]:
            raise NoBpf(f"it was not loaded in {_TIMEOUT:g} seconds")
        data, files, *_ = socket.recv_fds(ours, _LONGEST, 1, socket.MSG_CMSG_CLOEXEC)
    os.waitpid(pid, 0)
    if not data:
        raise NoBpf("the process that loads it was killed")
    answer = json.loads(data)
    if not files:
        raise NoBpf(answer["why"])
    groups = [(mask, VmFlag(flags)) for mask, flags in answer["groups"]]
    return Program(files[0], VmBits(groups))


def _be_loader(sock: socket.socket) -> NoReturn:
    files = []
    try:
        try:
            program = libbpf.load_program(_OBJECT, _PROGRAM)
            answer: object = {"groups": _learned(program)}
            files = [program]
        except (OSError, GcorefsError) as error:
            answer = {"why": _why(error)}
        socket.send_fds(sock, [json.dumps(answer).encode("ascii")], files)
    finally:
        os._exit(0)


def _learned(program: int) -> list[tuple[int, int]]:
    """The groups of VmBits.  OSError, UnknownBits, MapsError."""
    tid = os.getpid()
    with samples():
        text = address_space.read_mm(tid, "smaps")
        found = rows(program, tid, text.count(_LAST_OF_ENTRY))
    words, flags = zip(*words_of(found, parse_smaps(text)), strict=True)
    bits = learned(words, flags)
    return [(mask, flags.value) for mask, flags in bits.groups]


def _why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "bpf(2) is denied: no CAP_BPF and CAP_PERFMON, a seccomp filter, or lockdown"
    if isinstance(error, (UnknownBits, MapsError)):
        return str(error)
    assert isinstance(error, OSError)
    return f"the program cannot be loaded: {error.strerror}"

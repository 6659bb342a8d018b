"""Loads the programs, and learns what the bits of vm_flags mean and how registers are kept.

A child does all this, and ends.  So what libbpf has read (the types of the whole kernel) takes no
memory of ours and of the workers that are forked from us, and an error in it cannot end us.  We get
a descriptor of each program, with which bpf(2) makes an iterator for each stop.
"""

import contextlib
import errno
import json
import os
import select
import socket
from dataclasses import dataclass
from typing import NoReturn

from gcorefs.arch import HOST
from gcorefs.arch.x86_saved import UnknownRegisters
from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.elfcore.vm_bits import VmBits, learned
from gcorefs.elfcore.vma import VmFlag
from gcorefs.elfcore.vma_rows import OtherMappings, words_of
from gcorefs.errors import GcorefsError
from gcorefs.kernel import libbpf
from gcorefs.kernel.proc import address_space
from gcorefs.sources.bpf import subject
from gcorefs.sources.bpf.mappings import Program, next_rows, open_rows
from gcorefs.sources.bpf.registers import RegistersProgram
from gcorefs.sources.bpf.samples import samples
from gcorefs.sources.bpf.subject import NO_ITERATORS, saved_format

_BTF = "/sys/kernel/btf/vmlinux"
_TIMEOUT = 10.0
"""Seconds for the child, which needs a tenth of one.  The kernel checks the program meanwhile."""
_LONGEST = 1 << 16
_LAST_OF_ENTRY = b"\nVmFlags:"
OFF = "bpf=off"


class NoBpf(GcorefsError):
    """A program cannot be had.  The text says why, in half a line."""


@dataclass(frozen=True, slots=True)
class Choice:
    program: Program | None = None
    """For mappings.  None: smaps."""
    why_not: str = ""
    """Why BPF is not used for mappings; empty if it is."""
    registers: RegistersProgram | None = None
    """None: /proc/TID/syscall."""
    why_no_registers: str = ""

    @classmethod
    def neither(cls, why: str) -> "Choice":
        """No program, for one reason."""
        return cls(None, why, None, why)

    def __str__(self) -> str:
        """For the log and for status."""
        text = "mappings come from " + _source("smaps", self.why_not)
        if self.why_not != self.why_no_registers:
            registers = _source("/proc", self.why_no_registers)
            text += f"; registers of threads that are not stopped come from {registers}"
        return text

    @property
    def is_bpf_missing(self) -> bool:
        """True if it was wanted, and could not be had."""
        return self.program is None and self.why_not != OFF

    @property
    def descriptors(self) -> frozenset[int]:
        """The files that a child needs for it."""
        programs = self.program, self.registers
        return frozenset(each.descriptor for each in programs if each is not None)


def load() -> Choice:
    """Both programs, ready for any process.  The caller has one thread."""
    if not os.path.exists(_BTF):
        return Choice.neither("the kernel has no BTF")
    try:
        return _load()
    except OSError as error:
        return Choice.neither(f"no child to load it: {error.strerror}")


def _load() -> Choice:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            pid = os.fork()
            if pid == 0:
                _be_loader(theirs)
        # A service may not call kill(2).  So a child that hangs is left alone: it holds nobody.
        if not select.select([ours], [], [], _TIMEOUT)[0]:
            return Choice.neither(f"it was not loaded in {_TIMEOUT:g} seconds")
        data, files, *_ = socket.recv_fds(ours, _LONGEST, 2, socket.MSG_CMSG_CLOEXEC)
    os.waitpid(pid, 0)
    if not data:
        return Choice.neither("the process that loads it was killed")
    answer = json.loads(data)
    mappings = registers = None
    if "groups" in answer:
        groups = [(mask, VmFlag(flags)) for mask, flags in answer["groups"]]
        mappings = Program(files.pop(0), VmBits(groups))
    if "saved" in answer:
        registers = RegistersProgram(files.pop(0), saved_format(*answer["saved"]))
    return Choice(mappings, answer.get("mappings", ""), registers, answer.get("registers", ""))


def _be_loader(sock: socket.socket) -> NoReturn:
    try:
        answer: dict[str, object] = {}
        files = []
        for what, facts, learn in (
            ("mappings", "groups", _learned_bits),
            ("registers", "saved", subject.learned),
        ):
            try:
                if what == "registers" and HOST.saved_threads is None:
                    raise NoBpf("not known for this machine")
                program = libbpf.load_program(_object(what), f"gcorefs_{what}")
                answer[facts] = learn(program)
                files.append(program)
            except (OSError, GcorefsError, UnknownRegisters) as error:
                answer[what] = _why(error)
        socket.send_fds(sock, [json.dumps(answer).encode("ascii")], files)
    finally:
        os._exit(0)


def _object(what: str) -> str:
    """The path of the object file.  NoBpf."""
    name = f"{what}.bpf.o"
    path = os.path.join(os.path.dirname(__file__), name)
    if not os.path.exists(path):
        raise NoBpf(f"{name} was not built")
    return path


def _learned_bits(program: int) -> list[tuple[int, int]]:
    """The groups of VmBits.  OSError, UnknownBits, MapsError."""
    tid = os.getpid()
    with samples():
        text = address_space.read_mm(tid, "smaps")
        with contextlib.closing(open_rows(program, tid)) as stream:
            found = next_rows(stream, text.count(_LAST_OF_ENTRY))
    words, flags = zip(*words_of(found, parse_smaps(text)), strict=True)
    bits = learned(words, flags)
    return [(mask, flags.value) for mask, flags in bits.groups]


def _why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "bpf(2) is denied: no CAP_BPF and CAP_PERFMON, a seccomp filter, or lockdown"
    # Since 5.12 there are iterators of mappings.  Until 6.1 these ignore which process is asked for
    # (kernel/bpf/task_iter.c, bpf_iter_attach_task), so they show others.
    if isinstance(error, OtherMappings):
        return NO_ITERATORS
    if not isinstance(error, OSError):
        return str(error)
    # What libbpf says if the kernel lacks a type that it looks for (find_kernel_btf_id).
    if error.errno == errno.ESRCH:
        return NO_ITERATORS
    return f"the program cannot be loaded: {error.strerror}"


def _source(otherwise: str, why_not: str) -> str:
    return f"{otherwise}: {why_not}" if why_not else "BPF"

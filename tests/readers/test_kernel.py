"""The kernel's own core of the same process, compared field by field.

We take our core and let the process go.  When every thread is back in its call, SIGABRT makes the
kernel dump it (fs/coredump.c).  Our core is taken with xstate=raw, because gdb needs another layout
of the vector registers than the kernel's (test_regsets.py moves them back).  The permitted
differences are listed below with their reasons; everything else is equal to the byte.
"""

import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from gcorefs.elfcore.elf import PF_X
from tests.conftest import Target, wait_until_asleep, wait_until_gone
from tests.readers.corefile import X86_XSAVE_LAYOUT, X86_XSTATE, Core, Note, Segment, Thread
from tests.readers.debuggers import eu_stack, gdb_threads, lldb_threads

# The programs that sleep have 64 bits.  x8 keeps its number outside of a call.
NUMBER, CLOCK_NANOSLEEP, RESTART_SYSCALL = (
    ("x8", 115, 128) if os.uname().machine == "aarch64" else ("orig_rax", 230, 219)
)
ERESTART_RESTARTBLOCK = 516
USER32_CS = 0x23
"""arch/x86/include/asm/segment.h"""
GENERAL = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"}

ALLOWED_IN_PRSTATUS = {
    "si_signo": "the kernel's core names the signal that killed; nothing killed for ours",
    "cursig": "the same",
    **dict.fromkeys(
        ("utime", "utime_us", "stime", "stime_us", "cutime", "cutime_us", "cstime", "cstime_us"),
        "the process ran on, and /proc counts in ticks of 10 ms",
    ),
}
ALLOWED_IN_PRPSINFO = {
    "state": "who dumps itself runs (R); ours slept (S)",
    "sname": "the same",
    "flag": "PF_SIGNALED and PF_DUMPCORE are set by dying (include/linux/sched.h)",
}
PF_DUMPCORE, PF_SIGNALED = 0x200, 0x400
XSTATE_SSE = 2
# They are compared field by field.
NOT_COMPARED_AS_BYTES = ("NT_PRSTATUS", "NT_PRPSINFO")

# mm/mprotect.c: execute-only memory has a protection key, if the processor has such keys.
HAS_PROTECTION_KEYS = "ospke" in Path("/proc/cpuinfo").read_text().split()


@dataclass(frozen=True)
class Both:
    program: Path
    ours: Core
    kernels: Core


Compare = Callable[..., Both]


@pytest.fixture
def both(
    core_pattern: Path, dump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Compare]:
    """Start a program, with the command `prefix` before it, and take both cores of it."""
    # Without this, the kernel writes the current processor into each thread's memory (rseq(2)).
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
    targets: list[Target] = []

    def make(*argv: object, prefix: tuple[str, ...] = (), mask: str = "0x33") -> Both:
        target = Target([*prefix, *map(str, argv)])
        targets.append(target)
        pid = youngest(target.popen.pid)
        Path(f"/proc/{pid}/coredump_filter").write_text(mask)
        resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
        wait_until_asleep(pid)
        ours = Core(dump(pid, memory="kernel", xstate="raw"))
        wait_until_asleep(pid)
        os.kill(pid, signal.SIGABRT)
        wait_until_gone(pid)
        return Both(Path(str(argv[0])), ours, Core(Path(f"{core_pattern}.{pid}")))

    yield make
    for target in targets:
        target.kill()


def youngest(pid: int) -> int:
    """The last process of a chain of only children."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        (child,) = children
        pid = int(child)
    return pid


def assert_equal_but_for_the_signal(both: Both) -> None:
    assert_headers_equal(both.ours, both.kernels)
    assert_notes_equal(both.ours, both.kernels)
    assert_memory_equal(both)


def assert_headers_equal(ours: Core, kernels: Core) -> None:
    assert ours.ident == kernels.ident
    own_count = {"e_phnum": len(ours.order)}
    assert ours.header == kernels.header | own_count
    assert ours.order == ["PT_NOTE"] + ["PT_LOAD"] * len(ours.loads)

    def facts(segment: Segment) -> tuple[str, ...]:
        # Not the offset: the size of the notes decides where memory begins.
        names = ("vaddr", "memsz", "filesz", "flags", "align")
        return tuple(f"{name} {getattr(segment, name):#x}" for name in names)

    assert [facts(load) for load in in_one_piece(ours, kernels)] == [
        facts(load) for load in kernels.loads
    ]


def in_one_piece(ours: Core, kernels: Core) -> list[Segment]:
    """Our segments, merged if they are one segment in the kernel's core.

    If never-populated memory is zeros that the file has only once, a mapping has several segments.
    """
    borders = {load.vaddr for load in kernels.loads}
    found: list[Segment] = []
    for load in ours.loads:
        if load.vaddr in borders:
            found.append(load)
            continue
        first = found[-1]
        assert (load.vaddr, load.flags, load.align) == (first.end, first.flags, first.align)
        assert first.filesz == first.memsz
        found[-1] = replace(
            first, memsz=first.memsz + load.memsz, filesz=first.filesz + load.filesz
        )
    return found


def assert_notes_equal(ours: Core, kernels: Core) -> None:
    found_parts, wanted_parts = parts(ours), parts(kernels)
    if not wanted_parts[-1]:  # this kernel does not write NT_X86_XSAVE_LAYOUT
        found_parts[-1] = []
    # The signal that killed it; nothing killed for ours.
    wanted_parts[0] = [note for note in wanted_parts[0] if note.kind != "NT_SIGINFO"]
    for found, wanted in zip(found_parts, wanted_parts, strict=True):
        assert [(note.owner, note.kind, len(note.desc)) for note in found] == [
            (note.owner, note.kind, len(note.desc)) for note in wanted
        ]
        for note, other in zip(found, wanted, strict=True):
            if note.kind not in NOT_COMPARED_AS_BYTES:
                assert comparable(note).hex() == comparable(other).hex(), note.kind
    assert next(iter(ours.threads)) == next(iter(kernels.threads))
    for tid, thread in ours.threads.items():
        status, wanted_status = dict(thread.status), dict(kernels.threads[tid].status)
        if sleeps(thread) and is_restarted_by_another_call(status):
            # Our interrupt came first, and restart_syscall(2) took the place of the call.
            assert wanted_status.pop(NUMBER) == RESTART_SYSCALL
            del status[NUMBER]
        for name in ALLOWED_IN_PRSTATUS:
            del status[name], wanted_status[name]
        assert defined(status) == defined(wanted_status)
        assert (thread.status["si_signo"], thread.status["cursig"]) == (0, 0)
    info, wanted_info = ours.info, kernels.info
    assert {k: v for k, v in info.items() if k not in ALLOWED_IN_PRPSINFO} == {
        k: v for k, v in wanted_info.items() if k not in ALLOWED_IN_PRPSINFO
    }
    assert (info["state"], info["sname"]) == (1, b"S")
    assert info["flag"] == int(wanted_info["flag"]) & ~(PF_DUMPCORE | PF_SIGNALED)


def defined(status: dict[str, int]) -> dict[str, int]:
    """The fields of NT_PRSTATUS, without halves of registers that are undefined.

    The upper halves are not preserved while a thread runs 32-bit code (Intel SDM vol. 1, 3.4.1.1).
    """
    if status.get("cs") != USER32_CS:
        return status
    return {
        name: value & 0xFFFFFFFF if name in GENERAL else value for name, value in status.items()
    }


def comparable(note: Note) -> bytes:
    """The descriptor, without one bit of XSTATE that varies.

    For zeros in the xmm registers, XSTATE_BV may say "in use" or "initial state", and may change in
    the same sleeping thread: the processor may choose (Intel SDM vol. 1, 13.6).  Only 32-bit
    programs run without these registers.
    """
    if note.kind != X86_XSTATE or any(note.desc[160:416]):
        return note.desc
    return note.desc[:512] + bytes([note.desc[512] | XSTATE_SSE]) + note.desc[513:]


def parts(core: Core) -> list[list[Note]]:
    """The notes from one PRSTATUS to the next: those of the first thread, then the others by id.

    The kernel lists the others in the order in which they died.
    """
    starts = [at for at, note in enumerate(core.notes) if note.kind == "NT_PRSTATUS"]
    # The layout note, the last one, belongs to no thread.  An old kernel does not have it.
    end = len(core.notes) - (core.notes[-1].kind == X86_XSAVE_LAYOUT)
    spans = [core.notes[a:b] for a, b in pairwise([*starts, end])]
    by_tid = dict(zip(core.threads, spans, strict=True))
    first, *others = by_tid
    return [by_tid[first], *(by_tid[tid] for tid in sorted(others)), core.notes[end:]]


def sleeps(thread: Thread) -> bool:
    return thread.status.get(NUMBER) == CLOCK_NANOSLEEP


def is_restarted_by_another_call(status: Mapping[str, int]) -> bool:
    """On aarch64 the result is not shown: only the programs that sleep in that call sleep."""
    return "rax" not in status or signed(status["rax"]) == -ERESTART_RESTARTBLOCK


def signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def written_by_the_kernel(both: Both) -> Iterator[tuple[int, int]]:
    """The places where the kernel writes into the memory of a process that goes on."""
    for thread in both.ours.threads.values():
        if sleeps(thread):
            # The rest of the sleep, written at each interruption (clock_nanosleep(2)).
            rest = thread.status["x3" if NUMBER == "x8" else "r10"]
            yield rest, rest + 16


def assert_memory_equal(both: Both) -> None:
    ours, kernels = both.ours, both.kernels
    changed = [span for span in written_by_the_kernel(both) if span[0]]
    for load in ours.loads:
        start, end = load.vaddr, load.vaddr + load.filesz
        found, wanted = bytearray(ours.read(start, end)), bytearray(kernels.read(start, end))
        for first, last in changed:
            if start <= first and last <= end:
                found[first - start : last - start] = bytes(last - first)
                wanted[first - start : last - start] = bytes(last - first)
        if load.flags == PF_X and HAS_PROTECTION_KEYS and not any(wanted):
            continue  # its protection key stops even the kernel's dumper, but not us
        if found != wanted:
            at = next(
                i for i, pair in enumerate(zip(found, wanted, strict=True)) if len({*pair}) > 1
            )
            raise AssertionError(f"{start + at:#x} in {start:#x}-{end:#x} differs")


@pytest.mark.parametrize("program", ["threads", "threads32"])
def test_threads_asleep_in_futex(both: Compare, build: Callable[[str], Path], program: str) -> None:
    assert_equal_but_for_the_signal(both(build(program), 5))


@pytest.mark.parametrize("program", ["registers", "registers32"])
def test_threads_with_every_register_filled(
    both: Compare, build: Callable[[str], Path], program: str
) -> None:
    assert_equal_but_for_the_signal(both(build(program), 3, "blocked"))


@pytest.mark.parametrize("program", ["memory", "memory32"])
@pytest.mark.parametrize("mask", ["0", "0x33", "0x7f", "0x1ff"])
def test_memory_of_every_kind(
    both: Compare, build: Callable[[str], Path], tmp_path: Path, mask: str, program: str
) -> None:
    assert_equal_but_for_the_signal(both(build(program), tmp_path, mask=mask))


@pytest.mark.parametrize("mode", ["segment", "number"])
def test_a_thread_that_runs_or_calls_as_a_32_bit_program(
    both: Compare, build: Callable[[str], Path], mode: str
) -> None:
    assert_equal_but_for_the_signal(both(build("mixed"), mode))


def test_a_32_bit_program_without_thread_local_storage(
    both: Compare, build: Callable[[str], Path]
) -> None:
    prefix = ("sh", "-c", """echo '{"pid": '$$'}'; exec "$@\"""", "sh")
    cores = both(build("elf32"), prefix=prefix)
    assert_headers_equal(cores.ours, cores.kernels)
    assert_notes_equal(cores.ours, cores.kernels)


def test_a_32_bit_process_of_a_user_with_a_high_number(
    both: Compare, build: Callable[[str], Path]
) -> None:
    # If an id has more than sixteen bits, struct elf_prpsinfo has 65534 (linux/highuid.h).
    words = ("unshare", "--user", "--map-user=100000", "--map-group=65535")
    cores = both(build("threads32"), 2, prefix=words)
    assert (cores.ours.info["uid"], cores.ours.info["gid"]) == (65534, 65535)
    assert_equal_but_for_the_signal(cores)


def test_a_program_without_threads(both: Compare) -> None:
    # The shell prints one line of truth, as every target does, and becomes sleep(1).
    prefix = ("sh", "-c", """echo '{"pid": '$$'}'; exec "$@\"""", "sh")
    assert_equal_but_for_the_signal(both("/bin/sleep", 1000, prefix=prefix))


def test_a_process_in_a_child_pid_namespace(both: Compare, build: Callable[[str], Path]) -> None:
    # Not as the init of the namespace, because SIGABRT does not kill that (pid_namespaces(7)).
    words = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    cores = both(build("threads"), 2, prefix=(*words, "sh", "-c", '"$@"; exit', "sh"))
    assert cores.ours.info["pid"] == 2
    assert_equal_but_for_the_signal(cores)


def test_a_process_in_a_child_user_namespace(both: Compare, build: Callable[[str], Path]) -> None:
    words = ("unshare", "--user", "--map-user=1000", "--map-group=1001")
    cores = both(build("threads"), 2, prefix=words)
    assert (cores.ours.info["uid"], cores.ours.info["gid"]) == (1000, 1001)
    assert_equal_but_for_the_signal(cores)


SPLIT = """
import ctypes, mmap, os, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
address = libc.mmap(None, 1 << 16, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
ctypes.memset(address, 1, 4096)
assert libc.mprotect(ctypes.c_void_p(address + (1 << 15)), 1 << 15, 1) == 0
print('{"pid": %d}' % os.getpid(), flush=True)
signal.pause()
"""


def test_what_only_the_kernel_takes_of_a_split_mapping_is_zeros(both: Compare) -> None:
    # Both halves keep vma->anon_vma, which the kernel's filter checks (mm/vma.c, __split_vma),
    # although nothing in the second half was ever written.  Nothing outside the kernel shows
    # that, so our core does not have it.
    cores = both(os.path.realpath(sys.executable), "-c", SPLIT)
    assert_notes_equal(cores.ours, cores.kernels)
    differing = []
    pieces = in_one_piece(cores.ours, cores.kernels)
    for ours, kernels in zip(pieces, cores.kernels.loads, strict=True):
        assert (ours.vaddr, ours.memsz, ours.flags) == (kernels.vaddr, kernels.memsz, kernels.flags)
        if ours.filesz != kernels.filesz:
            differing.append((ours, kernels))
    ((ours, kernels),) = differing
    assert (ours.filesz, kernels.filesz) == (0, 1 << 15)
    assert cores.kernels.read(kernels.vaddr, kernels.end) == bytes(1 << 15)


@pytest.mark.parametrize("program", ["threads", "threads32"])
def test_debuggers_say_the_same_of_both_cores(
    both: Compare, build: Callable[[str], Path], program: str
) -> None:
    cores = both(build(program), 5)
    path, ours, kernels = cores.program, cores.ours.path, cores.kernels.path
    commands = ("thread apply all bt full", "thread apply all info all-registers")
    assert gdb_threads(path, ours, "--", *commands) == gdb_threads(path, kernels, "--", *commands)
    assert eu_stack(path, ours) == eu_stack(path, kernels)
    assert lldb_says(path, ours) == lldb_says(path, kernels)


def lldb_says(program: Path, core: Path) -> dict[int, list[str]]:
    """Registers of each thread, and its frames."""
    # The rest is headings and code: why each thread stopped, its number, and its first frame,
    # also of the next thread.
    wanted = re.compile(r"^ *\w+ = .*|^ +frame #[1-9].*", re.MULTILINE)
    found = lldb_threads(program, core, 6, "register read --all")
    frames = lldb_threads(program, core, 6, "bt")
    return {tid: wanted.findall(found[tid] + frames[tid]) for tid in found}

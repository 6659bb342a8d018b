"""What /proc says of a process (proc(5)).

A process whose leader has called pthread_exit(3) reads empty or not at all through
/proc/PID, but well through /proc/PID/task/LIVE.  So every file is read through a live
thread: that is what the `tid` of these functions is.

A missing process or thread raises ProcessLookupError (ESRCH), whichever of ENOENT and ESRCH
the kernel chose to say it with.  Whatever is said here of ESRCH: a file of a process that lives
may be refused or missing as well, and those are other errors (procfile.py).
"""

import contextlib
import functools
import math
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gcorefs.arch import machine_of
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.filter import DEFAULT
from gcorefs.elfcore.vma import Vma, parse_pieces
from gcorefs.process import syscalls
from gcorefs.process.later import Worker
from gcorefs.process.procfile import (
    empty,
    explained,
    gone,
    has_text,
    is_kernels_own,
    read,
    read_system,
)
from gcorefs.process.threads import NoThread
from gcorefs.process.turns import LINE

T = TypeVar("T")

_PIECE = 256 << 10
_LONGEST_STAT = 4096

# include/linux/sched.h
PF_KTHREAD = 0x00200000
PF_EXITING = 0x00000004
PF_IO_WORKER = 0x00000010
PF_USER_WORKER = 0x00004000

TICKS = os.sysconf("SC_CLK_TCK")


class FormatError(ValueError):
    """The text is not one that the kernel writes: refused, never guessed at."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told from a later one of the same pid by when it started."""

    pid: int
    start_time: int
    """Clock ticks since boot."""


@dataclass(frozen=True, slots=True)
class Stat:
    """/proc/PID/task/TID/stat.  Times in clock ticks, sizes in pages."""

    comm: bytes
    state: str
    ppid: int
    flags: int
    utime: int
    stime: int
    cutime: int
    cstime: int
    nice: int
    start_time: int
    resident: int
    argument_start: int
    argument_end: int

    @property
    def is_kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_worker(self) -> bool:
        """An io_uring or vhost worker: a kernel thread in the process's clothes."""
        return bool(self.flags & (PF_IO_WORKER | PF_USER_WORKER))

    @property
    def is_dead(self) -> bool:
        return self.state in "ZXx"

    @property
    def is_exiting(self) -> bool:
        """True for a thread without memory, or about to have none (kernel/exit.c, do_exit)."""
        return self.is_dead or bool(self.flags & PF_EXITING)


def started(process: Process) -> float:
    """When a process started, in seconds since the epoch."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_time / TICKS
    return time.time() - age


def is_ours() -> bool:
    """True where /proc names processes as system calls do (pid_namespaces(7)).

    One mounted in another pid namespace has other processes under the same numbers.
    """
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


NOT_OURS = "/proc is not mounted, or is that of another pid namespace"
"""What to say where it is not."""


def _read_of(pid: int, tid: int | None, name: str) -> bytes:
    """What /proc has of a process, or of one of its threads."""
    path = f"{pid}/{name}" if tid is None else f"{pid}/task/{tid}/{name}"
    text = read(path, is_record=True)
    if not text:  # of one that is gone, a read would have failed
        raise empty(path)
    return text


def read_mm(tid: int, name: str) -> bytes:
    """A file of /proc/TID that tells of its memory, and is empty once that is gone.  ESRCH."""
    text = read(f"{tid}/{name}")
    if not text:
        raise without_text(tid, name)
    return text


def without_text(tid: int, name: str) -> OSError:
    """Why a file of /proc/TID that tells of its memory was empty: ESRCH or ENODATA.

    It is once that memory is gone, which execve(2) does too; then a second look finds text again.
    """
    path = f"{tid}/{name}"
    if stat(tid).is_exiting or has_text(path):
        return gone(path)
    return empty(path)


def maps(tid: int) -> bytes:
    """What is mapped, without a look at any page table (proc(5)).  ESRCH, EACCES."""
    path = f"{tid}/maps"
    try:
        with contextlib.closing(syscalls.Stream(f"/proc/{path}")) as stream:
            pieces = [stream.read(_PIECE)]
            while len(pieces[-1]) == _PIECE:
                LINE.give_way()
                pieces.append(stream.read(_PIECE))
    except OSError as error:
        raise explained(error, path) from error
    if not pieces[0]:
        raise without_text(tid, "maps")
    return b"".join(pieces)


def mappings(tid: int) -> list[Vma]:
    """All that smaps tells, parsed as it comes: of 100,000 mappings it has 70 MB.

    MapsError where it cannot be trusted.  ESRCH.
    """
    path = f"{tid}/smaps"
    try:
        with (
            contextlib.closing(syscalls.Stream(f"/proc/{path}")) as stream,
            contextlib.closing(_pieces(stream)) as pieces,
        ):
            vmas = parse_pieces(pieces)
    except NoThread:
        raise
    except OSError as error:
        raise explained(error, path) from error
    if not vmas:
        raise without_text(tid, "smaps")
    return vmas


def _pieces(stream: syscalls.Stream) -> Generator[bytes, None, None]:
    """All of it; where there is much, the next one is read while somebody works at the last."""
    piece = stream.read(_PIECE)
    if len(piece) < _PIECE:
        yield piece
        return
    with contextlib.closing(Worker("gcorefs-smaps")) as reader:
        while piece:
            coming = reader.submit(stream.read, _PIECE)
            try:
                LINE.give_way()
                yield piece
            finally:  # who gave up, by whatever error, is about to close it
                piece = coming.result()


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def user_pids() -> list[int]:
    """Every process that is no kernel thread, without a look at any of them.

    Kernel threads are the children of kthreadd, which makes them (kernel/kthread.c).  It has
    pid 2, and in no other pid namespace than its own are there any.  Its other children are
    programs that the kernel starts, such as that of core_pattern (kernel/umh.c).
    """
    try:
        if not stat(_KTHREADD).is_kernel_thread:
            return pids()
    except ProcessLookupError:
        return pids()
    except PermissionError:  # hidepid=: what we may not look at has no file
        return [pid for pid in pids() if not _is_kernel_thread(pid)]
    try:
        # Before and after, for those that begin meanwhile; and one that ends while its siblings
        # are read can make the kernel leave out another (fs/proc/array.c, get_children_pid).
        before = children(_KTHREADD)
        found = pids()
        threads = {_KTHREADD, *_kernel_threads.among({*before, *children(_KTHREADD)})}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [pid for pid in pids() if not _is_kernel_thread(pid)]
    return [pid for pid in found if pid not in threads]


_KTHREADD = 2


class _KernelThreads:
    """The children of kthreadd that are kernel threads.  Each is looked at once, and again after
    ten seconds, as its pid may be another's by then."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._looked_at = -math.inf

    def among(self, children: set[int]) -> set[int]:
        now = time.monotonic()
        if now - self._looked_at >= _STAYS_KERNEL:
            self._known, self._looked_at = set(), now
        found = {pid for pid in children if pid in self._known or _is_kernel_thread(pid)}
        self._known = found
        return found


_STAYS_KERNEL = 10.0
_kernel_threads = _KernelThreads()


def children(pid: int) -> list[int]:
    """Children of a process's leader, nearly all (proc(5), children).  ESRCH."""
    return [int(child) for child in read(f"{pid}/task/{pid}/children").split()]


def _is_kernel_thread(pid: int) -> bool:
    """As far as a listing goes, one that is gone or not shown is none of the others."""
    try:
        return stat(pid).is_kernel_thread
    except (ProcessLookupError, PermissionError):
        return True


def tids(pid: int) -> list[int]:
    """Every thread of a process, the leader first where it is still there."""
    try:
        found = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError as error:
        raise explained(error, f"{pid}/task") from error
    if pid in found:  # not always the lowest: thread ids begin anew at pid_max
        found.remove(pid)
        found.insert(0, pid)
    return found


def thread_count(pid: int) -> int:
    """How many threads `tids` would list, at once.

    The directory has a link for each, and two of its own (fs/proc/base.c, proc_task_getattr).
    """
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError as error:
        raise explained(error, f"{pid}/task") from error


def parse_stat(text: bytes) -> Stat:
    """FormatError where a field is missing or no number."""
    try:
        # The name stands in parentheses and may hold any byte, parentheses and newlines too.
        opening, closing = text.index(b"("), text.rindex(b")")
        fields = text[closing + 2 :].split()
        number = [int(field) for field in fields[1:]]
        # Field n of proc(5) is number[n - 4].
        return Stat(
            comm=text[opening + 1 : closing],
            state=fields[0].decode("ascii"),
            ppid=number[0],
            flags=number[5],
            utime=number[10],
            stime=number[11],
            cutime=number[12],
            cstime=number[13],
            nice=number[15],
            start_time=number[18],
            resident=number[20],
            argument_start=number[44],
            argument_end=number[45],
        )
    except (ValueError, IndexError) as error:
        raise FormatError(f"unexpected text in stat: {text!r}") from error


def stat(pid: int, tid: int | None = None) -> Stat:
    """Of the thread `tid` of a process, or of `pid` itself, a leader or not.  ESRCH.

    Not the process's own, for whose times the kernel looks at each of its threads
    (fs/proc/array.c, do_task_stat): 4 ms where there are 10,000.
    """
    return parse_stat(_read_of(pid, pid if tid is None else tid, "stat"))


def run_time(pid: int, tid: int) -> int | None:
    """Nanoseconds that a thread has had a CPU.  ESRCH.

    None where the kernel does not count them (Documentation/scheduler/sched-stats.rst; without
    CONFIG_SCHED_INFO there is no such file, with it switched off there are only zeros).
    """
    try:
        nanoseconds = int(_read_of(pid, tid, "schedstat").split()[0])
    except FileNotFoundError:
        return None
    return nanoseconds or None


def parse_times(text: bytes) -> tuple[int, int, int, int]:
    """utime, stime, cutime and cstime of a stat, as parse_stat has them, and nothing else."""
    try:
        # Field 14 of proc(5) and three more; the name, as far as it goes, is field 2.
        _, *fields, _ = text[text.rindex(b")") :].split(None, 16)
        utime, stime, cutime, cstime = map(int, fields[11:])
    except ValueError as error:
        raise FormatError(f"unexpected text in stat: {text!r}") from error
    return utime, stime, cutime, cstime


def task_times(pid: int, tids: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Times of each of these threads, in clock ticks, as parse_times has them.  ESRCH.

    Those of a leader are the whole process's (fs/binfmt_elf.c, fill_prstatus).
    """
    try:
        folder = os.open(f"/proc/{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise explained(error, f"{pid}/task") from error
    try:
        return [_times(pid, tid, folder) for tid in tids]
    finally:
        os.close(folder)


def _times(pid: int, tid: int, folder: int) -> tuple[int, int, int, int]:
    path = "../stat" if tid == pid else f"{tid}/stat"
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            return parse_times(os.read(file, _LONGEST_STAT))
        finally:
            os.close(file)
    except OSError as error:
        raise explained(error, f"{pid}/task/{tid}/stat") from error


def parse_status(text: bytes) -> dict[str, bytes]:
    """/proc/TID/status as its keys and the text behind them."""
    # Only a newline ends a line: the kernel escapes it in a name, and leaves \r as it is.
    pairs = (line.split(b":", 1) for line in text.split(b"\n") if b":" in line)
    return {key.decode("ascii", "replace"): value.strip() for key, value in pairs}


def status(pid: int, tid: int | None = None) -> dict[str, bytes]:
    return parse_status(_read_of(pid, tid, "status"))


def ask_live_thread(pid: int, ask: Callable[[int], T]) -> T:
    """`ask(tid)` of the first thread that has not exited, and does not meanwhile.

    ESRCH: there is none.
    """
    # Nearly always the leader, and the list of 10,000 takes 9 ms.  Again where all seem dead:
    # execve(2) gives the thread that calls it the leader's id.
    for list_some in (lambda _: [pid], tids, tids, tids):
        for tid in list_some(pid):
            with contextlib.suppress(ProcessLookupError):
                if not stat(pid, tid).is_dead:
                    return ask(tid)
    raise gone(pid)


def tracer(pid: int, tid: int) -> int:
    """The process that traces this thread, 0 where none does.

    Of a tracer that /proc does not show, as with hidepid=, it is the id of the thread that traces.
    """
    holder = int(status(pid, tid)["TracerPid"])  # a thread id, for all its name
    if not holder:
        return 0
    try:
        return int(status(holder)["Tgid"])
    except ProcessLookupError:
        return 0  # it ended just now, and with it the tracing
    except PermissionError:
        return holder


def is_dumping_core(pid: int) -> bool:
    """True while a process writes its own core (proc(5), CoreDumping).  ESRCH.

    Asked of a thread that lives: a dead leader has no memory and no such line
    (fs/proc/array.c, proc_pid_status).
    """
    found = ask_live_thread(pid, lambda tid: status(pid, tid))
    return found.get("CoreDumping") == b"1"


def coredump_filter(tid: int) -> int:
    """Which mappings a core is to have (core(5)).  ESRCH.

    The kernel's default where it is built without core dumps, and nobody can set another.
    """
    try:
        return int(read_mm(tid, "coredump_filter"), 16)
    except FileNotFoundError:
        return DEFAULT


def is_32_bit(tid: int) -> bool:
    """True where the program is a 32-bit one, as the auxiliary vector that it was given shows.

    Pairs of words: in 64-bit ones a type fills the lower half of its word only.  ESRCH.
    """
    first = read_mm(tid, "auxv")[:8]
    return int.from_bytes(first, "little") >> 32 != 0


def has_few_runs(tid: int) -> bool:
    """True where page tables are many, and hardly filled or nearly full: there is much to be
    looked through for few runs of pages.  Each table of 4 KiB has room for 2 MiB."""
    found = status(tid)
    if "VmPTE" not in found:  # killed: whoever reads its memory will be told
        return False
    tables, resident = (int(found[key].split()[0]) for key in ("VmPTE", "VmRSS"))  # in kB
    if tables <= _MANY_TABLES:
        return False
    return resident < tables * _HARDLY_FILLED or resident > tables * _NEARLY_FULL


_MANY_TABLES = 1024
# Of 512.
_HARDLY_FILLED = 128
_NEARLY_FULL = 448


def parse_system_call(text: bytes) -> tuple[int, list[int], int, int] | None:
    """FormatError where it is neither "running" nor a number and two words or more."""
    try:
        number, *words = text.split()
        if number == b"running":
            return None
        *arguments, sp, pc = (int(word, 16) for word in words)
        return int(number), arguments, sp, pc
    except ValueError as error:
        raise FormatError(f"unexpected text in syscall: {text!r}") from error


def system_call(pid: int, tid: int) -> tuple[int, list[int], int, int] | None:
    """/proc/TID/syscall: number, arguments, stack pointer, program counter.

    None while the thread runs.  The number is -1 for a thread that sleeps outside a call.
    """
    return parse_system_call(_read_of(pid, tid, "syscall"))


def is_opening(tid: int) -> bool:
    """True where a thread that waits in a request of FUSE does so in open(2).

    False also where /proc does not say: the thread is in no pid namespace of ours, or we may not
    trace it.  Such a thread is no opener that could be identified (access.py).
    """
    try:
        call = system_call(tid, tid)
        machine = machine_of(is_32_bit(tid))
    except OSError:
        return False
    return call is not None and machine is not None and call[0] in machine.opening


def file_note_limit() -> int | None:
    """How large the kernel would make NT_FILE (Documentation/admin-guide/sysctl/kernel.rst,
    core_file_note_size_limit); None where it cannot be set, or /proc does not say."""
    try:
        return int(read_system("sys/kernel/core_file_note_size_limit"))
    except (OSError, ValueError):
        return None


def available_memory() -> int:
    """Bytes that can be had without swapping (proc(5), MemAvailable).

    Where /proc does not say, the bytes that nobody uses just now (sysinfo(2), freeram): fewer, for
    what is cached of files is not among them.
    """
    try:
        return int(parse_status(read_system("meminfo"))["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, IndexError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * PAGE_SIZE


def owner(pid: int, tid: int) -> tuple[bytes, ...]:
    """Whose a process is: by what the kernel decides who may trace it (ptrace(2)).  ESRCH."""
    found = status(pid, tid)
    # Root's while the process is not dumpable, as all of its files but the folder itself
    # (fs/proc/base.c, task_dump_owner).
    ids = b"%d %d" % owner_of(f"{pid}/task/{tid}/mem")
    return found["Uid"], found["Gid"], found["CapPrm"], ids


def owner_of(path: str) -> tuple[int, int]:
    """The uid and gid to whom /proc/`path`, a file or folder of a process, belongs.  ESRCH."""
    try:
        found = os.stat(f"/proc/{path}")
    except OSError as error:
        raise explained(error, path) from error
    return found.st_uid, found.st_gid


_ESCAPED_NEWLINE = b"\\012"


def map_file(tid: int, start: int, end: int) -> str:
    """The link to the file that is mapped from `start` to `end` (proc(5), map_files).

    Without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE it cannot be followed.
    """
    return f"/proc/{tid}/map_files/{start:x}-{end:x}"


def mapped_path(tid: int, start: int, end: int, shown: bytes) -> bytes:
    """The true path of a mapped file, of which maps shows `shown`.

    maps writes a newline as \\012 and leaves a backslash alone (fs/seq_file.c, mangle_path),
    so a name with \\012 in it can be either; the link in map_files has it as it is.
    """
    if _ESCAPED_NEWLINE not in shown:
        return shown
    try:
        return os.readlink(map_file(tid, start, end).encode())
    except OSError:
        return shown.replace(_ESCAPED_NEWLINE, b"\n")


def mapped_file(tid: int, start: int, end: int) -> syscalls.FileStat | None:
    """The file behind a mapping, whatever name it has or had.

    As the kernel has them: a file server that does not answer is not asked.  None where the
    kernel does not show it: without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
    """
    try:
        return syscalls.cached_stat(map_file(tid, start, end))
    except OSError:
        return None


def file_system(tid: int, device: str) -> bytes:
    """The type of the file system on `device`, as maps writes that; empty where it is mounted
    nowhere that the process sees (proc(5), mountinfo).  ESRCH."""
    major, minor = (int(number, 16) for number in device.split(":"))
    for line in read(f"{tid}/mountinfo").split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > 2 and fields[2] == b"%d:%d" % (major, minor):
            # A varying number of fields stands before the hyphen.
            return fields[fields.index(b"-") + 1]
    return b""


@functools.cache
def shmem_device() -> str:
    """The device of memory without a name, as maps writes it: memfd, System V, /dev/zero.

    They share one mount of the kernel's own (mm/shmem.c, shm_mnt).
    """
    return _device(os.memfd_create("gcorefs", os.MFD_CLOEXEC))


@functools.cache
def secretmem_device() -> str | None:
    """The device of memfd_secret(2), as maps writes it; None where that is not to be had."""
    try:
        return _device(syscalls.memfd_secret())
    except OSError:
        return None


def _device(fd: int) -> str:
    """Of an open file, which is closed."""
    try:
        device = os.fstat(fd).st_dev
    finally:
        os.close(fd)
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def parse_leases(text: bytes) -> set[int]:
    """The inodes of /proc/locks on which somebody holds a lease.  FormatError."""
    try:
        return {
            int(fields[5].split(b":")[2])
            for fields in map(bytes.split, text.splitlines())
            if fields[1] in (b"LEASE", b"DELEG")
        }
    except (ValueError, IndexError) as error:
        raise FormatError("unexpected text in locks") from error


def leased_inodes() -> set[int] | None:
    """Inodes on which somebody holds a lease: opening such a file sends a signal (fcntl(2)).

    None where nobody tells: the kernel's list is not there, not ours to read, or hidden behind
    another file.  A lease of a process outside of this pid namespace is not in it (fs/locks.c,
    locks_show).
    """
    try:
        return parse_leases(read_system("locks")) if is_kernels_own("locks") else None
    except OSError:
        return None


def user_namespace(tid: int) -> int:
    """A number that tells the user namespace of a thread from others (namespaces(7)).  ESRCH.

    0 where the kernel is built without user namespaces: there all share one.
    """
    path = f"{tid}/ns/user"
    try:
        return os.stat(f"/proc/{path}").st_ino
    except FileNotFoundError as error:
        reason = explained(error, path)
        if isinstance(reason, FileNotFoundError):
            return 0
        raise reason from error
    except OSError as error:
        raise explained(error, path) from error


_ID_MAP = re.compile(rb"^ *(\d+) +(\d+) +(\d+)$", re.MULTILINE)


def id_inside(text: bytes, number: int) -> int:
    """A uid or gid of outside as a uid_map or gid_map turns it; 65534 where it does not."""
    for inside, outside, count in _ID_MAP.findall(text):
        if 0 <= number - int(outside) < int(count):
            return int(inside) + number - int(outside)
    return 65534


def own_id(pid: int, kind: str, number: int) -> int:
    """A uid or gid (`kind`) as the user namespace of `pid` numbers it; 65534 where it has none.

    user_namespaces(7): the map's second column is in the reader's namespace, or in the
    parent's where the reader shares the namespace.
    """
    if user_namespace(pid) == user_namespace(os.getpid()):
        return number
    return id_inside(read(f"{pid}/{kind}_map"), number)

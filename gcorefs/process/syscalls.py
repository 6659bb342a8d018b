"""Everything that ctypes is needed for: ptrace(2), wait4(2), process_vm_readv(2), the
per-thread forms of the credential calls.

Two ways into libc.  A call through CDLL lets go of the interpreter lock and must win it
back: 1,000 threads took 16 ms to stop alone and 11 s beside one busy Python thread.  A call
through PyDLL keeps it.  A call that keeps it and sleeps stops every thread of ours, the event
loop among them.  So a call goes through PyDLL only where it sleeps on nothing that another user
can hold.  What each call sleeps on, by the function of the kernel:

These let go of the interpreter lock.  Whoever makes them waits for the answer under a bound
(mount/listing.py, mount/stops.py, cli/stopping.py), and a thread that hangs stays counted:
- PTRACE_SEIZE: cred_guard_mutex of the process, which an execve(2) of it holds for as long as a
  file server likes (kernel/ptrace.c, ptrace_attach; fs/exec.c, begin_new_exec).
- get_robust_list(2): exec_update_lock, in the same way (kernel/futex/syscalls.c,
  futex_get_robust_list_common, since Linux 6.18).
- process_vm_readv(2): exec_update_lock (kernel/fork.c, mm_access), mmap_lock of the process, and
  the pages that somebody has to bring (mm/process_vm_access.c, process_vm_rw_single_vec).
- statx(2) of a link in map_files: exec_update_lock and mmap_lock (fs/proc/base.c,
  map_files_d_revalidate).
- open(2) and read(2) of a file of /proc: the lock of the directory, which a reader of it holds
  while its own buffer is brought (fs/readdir.c, iterate_dir); exec_update_lock and mmap_lock
  (fs/proc/task_mmu.c, m_start); and the last user of an address space frees it and its files
  (kernel/fork.c, mmput).  status takes neither lock.
- fopen(3) and its like: as open(2) and read(2).
- madvise(2), MADV_POPULATE_WRITE: our own memory, but it takes long.

These keep it, and sleep on our own memory at most, which nobody else holds:
- PTRACE_INTERRUPT: a spin lock (kernel/ptrace.c, ptrace_request, lock_task_sighand).
- Every other request of ptrace(2): until a tracee that has stopped has left its processor
  (ptrace_check_attach, wait_task_inactive).  Register sets, signal masks, queued signals and a
  word of struct user are in the kernel's own memory; no request here reads the tracee's.
- PTRACE_DETACH: tasklist_lock, a spin lock (ptrace_detach).
- wait4(2) and waitid(2) with WNOHANG: tasklist_lock, and what is left of a thread that is dead
  (kernel/exit.c, wait_consider_task, release_task).  Its memory and files went before.
- close(2) of a file of /proc: nothing (fs/proc/base.c has no flush; fs/seq_file.c,
  single_release).
- setgroups(2), setresuid(2), setresgid(2), capset(2): nothing (kernel/cred.c, commit_creds).
- memfd_secret(2), mmap(2), munmap(2): our own mmap_lock.

Python's own calls let go of it as well: os.open, os.read, os.preadv, os.stat, os.listdir,
os.readlink, os.lseek, os.close, os.waitid, fcntl.ioctl.  os.getpgid keeps it, and does not sleep
(kernel/sys.c, do_getpgid).  The event loop of a mount asks nothing about another process, by any
of these (tests/mounted/test_event_loop.py).

Each function raises OSError with the errno of the call.
"""

import ctypes
import errno
import functools
import mmap
import os
import re
import struct
import threading
from array import array
from collections.abc import Sequence
from signal import SIG_UNBLOCK, SIGURG, pthread_sigmask
from typing import NamedTuple

from gcorefs.arch import HOST

_quick = ctypes.PyDLL(None, use_errno=True)
_sleeping = ctypes.CDLL(None, use_errno=True)

# include/uapi/linux/ptrace.h
PTRACE_POKEUSER = 6
PTRACE_CONT = 7
PTRACE_GETREGS = 12
PTRACE_GETFPREGS = 14
PTRACE_DETACH = 17
PTRACE_GETREGSET = 0x4204
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_PEEKSIGINFO = 0x4209
PTRACE_GETSIGMASK = 0x420A
PTRACE_GET_SYSCALL_INFO = 0x420E
PTRACE_EVENT_STOP = 128

# include/uapi/linux/wait.h
WNOTHREAD = 0x20000000
WALL = 0x40000000


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _PeekSiginfo(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("count", ctypes.c_int32))


_PTRACE_ARGUMENTS = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ptrace = _quick["ptrace"]
_ptrace.argtypes = _PTRACE_ARGUMENTS
_ptrace.restype = ctypes.c_long
# For what is asked of each of many threads: without argtypes a call takes a third less time.
# Then numbers are C ints, and an address must come as a ctypes object.
_ptrace_quick = _quick["ptrace"]
_ptrace_sleeping = _sleeping["ptrace"]
_ptrace_sleeping.argtypes = _PTRACE_ARGUMENTS
_ptrace_sleeping.restype = ctypes.c_long
_wait4 = _quick["wait4"]
_waitid = _quick["waitid"]
_readv = _sleeping["process_vm_readv"]
_readv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)
_readv.restype = ctypes.c_ssize_t
_syscall = _quick["syscall"]
_syscall.restype = ctypes.c_long


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def seize(tid: int) -> None:
    """PTRACE_SEIZE without options: the thread runs on, and is let go when we die.

    Sleeps while the thread is in execve(2) (cred_guard_mutex).  EPERM, ESRCH.
    """
    if _ptrace_sleeping(PTRACE_SEIZE, tid, None, None) < 0:
        raise _fail()


def interrupt(tid: int) -> None:
    """Ask a seized thread to stop.  ESRCH."""
    if _ptrace_quick(PTRACE_INTERRUPT, tid, None, None) < 0:
        raise _fail()


def resume(tid: int, signal: int) -> None:
    """Let a stopped thread run on, with the signal that it stopped for (0: none).  ESRCH."""
    if _ptrace(PTRACE_CONT, tid, None, signal) < 0:
        raise _fail()


def detach(tid: int) -> None:
    """Let a stopped thread go as it was before it was seized.  ESRCH."""
    if _ptrace_quick(PTRACE_DETACH, tid, None, None) < 0:
        raise _fail()


def poke_user(tid: int, offset: int, value: int) -> None:
    """Write one word of struct user, `offset` bytes into it.  ESRCH."""
    if _ptrace(PTRACE_POKEUSER, tid, offset, ctypes.c_void_p(value & (1 << 64) - 1)) < 0:
        raise _fail()


_WIDEST_REGISTER = 64


class RegsetBuffer:
    """Room for register sets of up to `size` bytes; one serves a whole stop."""

    def __init__(self, size: int) -> None:
        # The kernel refuses a length that is no multiple of one register of the set.
        self.size = -(-size // _WIDEST_REGISTER) * _WIDEST_REGISTER
        self._bytes = ctypes.create_string_buffer(self.size)
        self.address = ctypes.addressof(self._bytes)
        self.view = memoryview(self._bytes).cast("B")
        self.vector = _Iovec(self.address, self.size)
        self.reference = ctypes.byref(self.vector)


def get_regset(tid: int, note: int, buffer: RegsetBuffer) -> bytes:
    """One register set of a stopped thread, empty where this thread has none.

    EINVAL: this kernel does not have it; ESRCH.
    """
    vector = buffer.vector
    vector.length = buffer.size
    if _ptrace_quick(PTRACE_GETREGSET, tid, note, buffer.reference) < 0:
        if ctypes.get_errno() in (errno.ENODEV, errno.ENXIO):
            return b""
        raise _fail()
    return buffer.view[: vector.length].tobytes()


def get_registers(tid: int, size: int, buffer: RegsetBuffer) -> bytes:
    """struct user_regs_struct of a stopped thread, `size` bytes, as a program like ours has it.

    PTRACE_GETREGSET goes by the code segment in which the thread runs just now, this and the
    next by who asks (arch/x86/kernel/ptrace.c, arch_ptrace and task_user_regset_view).  ESRCH.
    """
    if _ptrace(PTRACE_GETREGS, tid, None, buffer.address) < 0:
        raise _fail()
    return buffer.view[:size].tobytes()


def get_float_registers(tid: int, size: int, buffer: RegsetBuffer) -> bytes:
    """struct user_fpregs_struct, in the same way.  ESRCH."""
    if _ptrace(PTRACE_GETFPREGS, tid, None, buffer.address) < 0:
        raise _fail()
    return buffer.view[:size].tobytes()


class _SyscallInfo(ctypes.Structure):
    """The beginning of struct ptrace_syscall_info (include/uapi/linux/ptrace.h)."""

    _fields_ = (("op", ctypes.c_uint8), ("_", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32))


def get_call_architecture(tid: int) -> int:
    """By whose numbers a stopped thread makes its system call: AUDIT_ARCH_*.  ESRCH."""
    info = _SyscallInfo()
    size = ctypes.sizeof(info)
    if _ptrace(PTRACE_GET_SYSCALL_INFO, tid, size, ctypes.addressof(info)) < 0:
        raise _fail()
    return int(info.arch)


class _Siginfo(ctypes.Structure):
    """siginfo_t as waitid(2) fills it (include/uapi/asm-generic/siginfo.h, _sigchld)."""

    _fields_ = (
        ("signo", ctypes.c_int),
        ("errno", ctypes.c_int),
        ("code", ctypes.c_int),
        ("_", ctypes.c_int),
        ("pid", ctypes.c_int),
        ("uid", ctypes.c_uint),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 100),
    )


class _Answers(threading.local):
    """What the kernel writes its short answers to, made once for each thread that asks.

    To make one takes about as long as a call, and there are many calls for each tracee.
    """

    def __init__(self) -> None:
        self.siginfo = _Siginfo()
        self.to_siginfo = ctypes.byref(self.siginfo)
        self.status = ctypes.c_int()
        self.to_status = ctypes.byref(self.status)
        self.which = _PeekSiginfo(offset=0, flags=0, count=1)
        self.to_which = ctypes.byref(self.which)
        self.mask = ctypes.c_uint64()
        self.to_mask = ctypes.byref(self.mask)
        self.head, self.length = ctypes.c_void_p(), ctypes.c_size_t()
        self.to_head, self.to_length = ctypes.byref(self.head), ctypes.byref(self.length)


_answers = _Answers()


def get_signal_mask(tid: int) -> int:
    """Blocked signals of a stopped thread: bit n - 1 for signal n.  ESRCH."""
    answers = _answers
    if _ptrace_quick(PTRACE_GETSIGMASK, tid, 8, answers.to_mask) < 0:
        raise _fail()
    return answers.mask.value


_SYS_GET_ROBUST_LIST = HOST.call("get_robust_list")
_get_robust_list = _sleeping["syscall"]


def has_robust_list(tid: int) -> bool:
    """True where a thread has told the kernel of its robust locks, as libc does for each.

    A worker of the kernel's never has (get_robust_list(2)).  False where we may not know.  Sleeps
    while the process is in execve(2) (exec_update_lock).
    """
    answers = _answers
    result = _get_robust_list(_SYS_GET_ROBUST_LIST, tid, answers.to_head, answers.to_length)
    return result == 0 and answers.head.value is not None


def get_pending(tid: int) -> int:
    """Signals queued for this stopped thread alone: bit n - 1 for signal n.  ESRCH."""
    found = 0
    answers = _answers
    which = answers.which
    which.offset = 0
    # One at a time: nearly every thread has none.
    while count := _ptrace_quick(PTRACE_PEEKSIGINFO, tid, answers.to_which, answers.to_siginfo):
        if count < 0:
            raise _fail()
        found |= 1 << (answers.siginfo.signo - 1)
        which.offset += 1
    return found


_SECCOMP = re.compile(rb"\nSeccomp:\t(\d)")  # proc(5): 2 is a filter
_open = _sleeping["open"]
_read = _sleeping["read"]
_read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_read.restype = ctypes.c_ssize_t
_close = _quick["close"]


def has_seccomp_filter(tid: int) -> bool:
    """True where a filter judges the system calls of this thread.  ESRCH.

    From /proc/TID/status, which takes no lock of the process: PTRACE_SECCOMP_GET_FILTER refuses a
    tracer that has a filter itself (kernel/seccomp.c, seccomp_get_filter), as a service has.
    """
    buffer = ctypes.create_string_buffer(8192)
    fd = _open(f"/proc/{tid}/status".encode(), os.O_RDONLY | os.O_CLOEXEC)
    if fd < 0:
        number = ctypes.get_errno()
        if number in (errno.ENOENT, errno.ESRCH):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(tid))
        return True  # not known: as if it had one is what hurts nobody
    text = b""
    try:
        # In pieces: the groups stand before it, and may be tens of thousands.
        while (count := _read(fd, buffer, len(buffer))) > 0:
            text += ctypes.string_at(buffer, count)
            if _SECCOMP.search(text):  # the next read would only say that this is the end
                break
    finally:
        _close(fd)
    found = _SECCOMP.search(text)
    return count < 0 or (found is not None and found[1] == b"2")


_PEEK = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | WALL | WNOTHREAD
_TAKE = os.WNOHANG | WALL | WNOTHREAD
_P_ALL, _P_PID = int(os.P_ALL), int(os.P_PID)


def poll_status(tid: int) -> int | None:
    """The wait status of one tracee of the calling thread, None while it has none.

    Reaps the dead.  ECHILD: no longer ours.  Asked by tid because waiting for any child
    (-1) walks all of them each time: 10,000 threads took 2.3 s against 9 ms.

    A thread that stands with a signal in hand is only looked at, and says the same again
    until it is resumed: the kernel keeps the signal in the very status that waiting takes
    away (kernel/exit.c, wait_task_stopped), so that if we died next, the signal was lost.
    """
    answers = _answers
    info = answers.siginfo
    if _waitid(_P_PID, tid, answers.to_siginfo, _PEEK) < 0:
        raise _fail()
    if info.pid == 0:
        return None
    if info.code == os.CLD_TRAPPED and not info.status >> 8:  # no event
        return int(info.status << 8 | 0x7F)
    result = _wait4(tid, answers.to_status, _TAKE, None)
    if result < 0:
        raise _fail()
    return answers.status.value if result else None


def has_status() -> bool:
    """True where any tracee of the calling thread has a wait status to be taken, or none is
    left.  One walk over all of them."""
    answers = _answers
    return bool(_waitid(_P_ALL, 0, answers.to_siginfo, _PEEK) < 0 or answers.siginfo.pid)


_waitid_sleeping = _sleeping["waitid"]
_AWAIT = _PEEK & ~os.WNOHANG


def await_status() -> None:
    """Sleep until a tracee of the calling thread has a wait status to be taken.

    Returns at once where one has it, or none is left, and early after `ring`.  The kernel wakes
    the thread for its own tracees only (kernel/exit.c, child_wait_callback).
    """
    _waitid_sleeping(_P_ALL, 0, _answers.to_siginfo, _AWAIT)


_BELL = int(SIGURG)
"""Ignored by default, so one that comes at a wrong time does nothing."""
_tgkill = _quick["tgkill"]
_signal = _quick["signal"]
_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_signal.restype = ctypes.c_void_p


@functools.cache
def hang_bell() -> None:
    """Have `ring` interrupt what a thread sleeps in.

    Only a signal with a handler interrupts a wait, and abs(3) is one that does nothing.  Python
    is not told, or its main thread would have to wake for each.  execve(2) takes it away.
    """
    _signal(_BELL, ctypes.cast(_quick["abs"], ctypes.c_void_p))
    _quick["siginterrupt"](_BELL, 1)


def hear_bell() -> None:
    """The calling thread is one that `ring` wakes, whatever signals it was started with blocked."""
    pthread_sigmask(SIG_UNBLOCK, {_BELL})


def ring(tid: int) -> None:
    """Wake a thread of ours from `await_status`.  One that is just about to sleep there does
    not hear it: repeat until it has done what it is woken for."""
    _tgkill(os.getpid(), tid, _BELL)


def read_memory(tid: int, address: int, buffer: memoryview) -> int:
    """process_vm_readv(2) into `buffer`; the count may be short at a page that cannot be had.

    EFAULT: not even the first page; ESRCH: the process is gone; EPERM.  Sleeps while pages
    come in.
    """
    return read_memory_vector(tid, array("Q", (address,)), array("Q", (len(buffer),)), buffer)


def read_memory_vector(
    tid: int,
    addresses: "array[int]",
    lengths: "array[int]",
    buffer: memoryview,
    places: "array[int] | None" = None,
) -> int:
    """The same from several ranges, 1,024 at most, each to its place in `buffer` (an offset;
    None: one after the other)."""
    # Not an array of that length: ctypes remembers the type of every length for ever.
    base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    if places is None:
        local = array("Q", (base, len(buffer)))
    else:
        local = _iovecs(array("Q", map(base.__add__, places)), lengths)
    remote = _iovecs(addresses, lengths)
    count: int = _readv(
        tid, local.buffer_info()[0], len(local) // 2, remote.buffer_info()[0], len(addresses), 0
    )
    if count < 0:
        raise _fail()
    return count


def _iovecs(addresses: "array[int]", lengths: "array[int]") -> "array[int]":
    """struct iovec each."""
    words = array("Q", bytes(2 * addresses.itemsize * len(addresses)))
    words[::2] = addresses
    words[1::2] = lengths
    return words


_madvise = _sleeping["madvise"]
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MADV_POPULATE_WRITE = 23


def populate(buffer: memoryview) -> None:
    """Have pages put under `buffer`, of a mapping of ours (madvise(2), MADV_POPULATE_WRITE).

    ENOMEM, EFAULT.  mmap.madvise would keep the interpreter lock.
    """
    target = ctypes.c_char.from_buffer(buffer)
    if _madvise(ctypes.addressof(target), len(buffer), _MADV_POPULATE_WRITE):
        raise _fail()


_statx = _sleeping["statx"]
_statx.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
)
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_STATX_DONT_SYNC = 0x4000
# Type, mode, links, mtime, inode, size, blocks.
_STATX_WANTED = 0x1 | 0x2 | 0x4 | 0x40 | 0x100 | 0x200 | 0x400
_STATX_BLOCK = 512
_STATX_ATTR_DAX = 0x200000


class FileStat(NamedTuple):
    mode: int
    links: int
    size: int
    is_dax: bool
    """Accessed past the page cache."""
    identity: tuple[int, int, int]
    """Major and minor number of its device, and its inode."""
    modified: int
    """When its content changed last, in whole seconds since the epoch."""
    allocated: int
    """Bytes that it takes where it is kept."""


def cached_stat(path: str | bytes, follow: bool = True) -> FileStat:
    """What the kernel has of a file, without asking whatever serves it (statx(2)).

    `follow`: through a symbolic link at the end of the path.
    """
    buffer = ctypes.create_string_buffer(256)
    flags = _AT_STATX_DONT_SYNC | (0 if follow else _AT_SYMLINK_NOFOLLOW)
    if _statx(_AT_FDCWD, os.fsencode(path), flags, _STATX_WANTED, buffer):
        raise _fail()
    # struct statx (linux/stat.h): stx_attributes at byte 8, stx_nlink at 16, stx_mode at 28,
    # stx_ino at 32, stx_size at 40, stx_blocks at 48, stx_mtime at 112, stx_dev_major at 136.
    (attributes, links, mode, inode, size, blocks, modified, major, minor) = struct.unpack_from(
        "<8xQI8xH2xQQQ56xq16xII", buffer
    )
    is_dax = bool(attributes & _STATX_ATTR_DAX)
    identity = major, minor, inode
    return FileStat(mode, links, size, is_dax, identity, modified, blocks * _STATX_BLOCK)


_SYS_MEMFD_SECRET = HOST.call("memfd_secret")


def memfd_secret() -> int:
    """A file of memory that nobody else can read (memfd_secret(2)).  ENOSYS, EPERM."""
    fd = int(_syscall(ctypes.c_long(_SYS_MEMFD_SECRET), ctypes.c_long(os.O_CLOEXEC)))
    if fd < 0:
        raise _fail()
    return fd


# Credentials of the calling thread alone.  libc's wrappers change every thread of the
# process (nptl(7)), so these go to the kernel directly.
_SYS_SETRESUID = HOST.call("setresuid")
_SYS_SETGROUPS = HOST.call("setgroups")
_SYS_SETRESGID = HOST.call("setresgid")
_SYS_CAPSET = HOST.call("capset")
_CAPABILITY_VERSION_3 = 0x20080522
_UNCHANGED = 0xFFFFFFFF


def _raw(number: int, *arguments: object) -> None:
    if _syscall(ctypes.c_long(number), *arguments) < 0:
        raise _fail()


def set_thread_groups(groups: Sequence[int]) -> None:
    """Supplementary groups of this thread.  EPERM."""
    array = (ctypes.c_uint32 * len(groups))(*groups)
    _raw(_SYS_SETGROUPS, ctypes.c_long(len(groups)), array)


def set_thread_effective_ids(uid: int, gid: int) -> None:
    """Effective and file-system ids of this thread; real and saved ones stay.  EPERM."""
    unchanged = ctypes.c_uint32(_UNCHANGED)
    _raw(_SYS_SETRESGID, unchanged, ctypes.c_uint32(gid), unchanged)
    _raw(_SYS_SETRESUID, unchanged, ctypes.c_uint32(uid), unchanged)


def set_thread_capabilities(effective: int) -> None:
    """Effective and permitted capabilities of this thread; nothing is inherited.  EPERM."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = effective & 0xFFFFFFFF, effective >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _raw(_SYS_CAPSET, header, data)


_mmap = _quick["mmap"]
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_mmap.restype = ctypes.c_void_p
_MAP_FAILED = ctypes.c_void_p(-1).value


# include/uapi/asm-generic/mman-common.h
_PROT_NONE = 0
_MAP_FIXED_NOREPLACE = 0x100000


def map_at(address: int, fd: int, length: int) -> None:
    """The beginning of a file at an address of our choice, not to be read or written.  EEXIST:
    something is there."""
    flags = mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE
    found = _mmap(address, length, _PROT_NONE, flags, fd, 0)
    if found is None or found == _MAP_FAILED:
        raise _fail()


# A FILE of stdio(3), by its address.
_fdopen = _sleeping["fdopen"]
_fdopen.argtypes = (ctypes.c_int, ctypes.c_char_p)
_fdopen.restype = ctypes.c_void_p
_fread = _sleeping["fread"]
_fread.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
_fread.restype = ctypes.c_size_t
_ferror = _quick["ferror"]
_ferror.argtypes = (ctypes.c_void_p,)
_fclose = _sleeping["fclose"]
_fclose.argtypes = (ctypes.c_void_p,)


class Stream:
    """A file that is read to its end, so many bytes with one call.

    /proc gives out its longer files a page at a time (fs/seq_file.c, seq_read_iter), whatever is
    asked for.  fread(3) asks until it has enough, and keeps the interpreter lock out of it: a
    thread that had to win it back for each page would wait beside a busy one as often.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._file = _fdopen(fd, b"r")
        if not self._file:
            os.close(fd)
            raise _fail()

    def read(self, length: int) -> bytes:
        """Fewer bytes only at the end."""
        buffer = ctypes.create_string_buffer(length)
        count = _fread(buffer, 1, length, self._file)
        if count < length and _ferror(self._file):
            raise _fail()
        return ctypes.string_at(buffer, count)

    def close(self) -> None:
        _fclose(self._file)

"""ptrace(2): stops a thread, and reads the state of a stopped one.

Each function raises OSError with the errno of the call.
"""

import ctypes
import enum
import errno
import threading

from gcorefs.kernel.libc import failure, quick, sleeping
from gcorefs.kernel.siginfo import Siginfo

# include/uapi/linux/ptrace.h
PTRACE_POKEUSER = 6
PTRACE_CONT = 7
PTRACE_GETREGS = 12
PTRACE_GETFPREGS = 14
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_SETOPTIONS = 0x4200
PTRACE_GETEVENTMSG = 0x4201
PTRACE_GETSIGINFO = 0x4202
PTRACE_GETREGSET = 0x4204
PTRACE_SETREGSET = 0x4205
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_PEEKSIGINFO = 0x4209
PTRACE_PEEKSIGINFO_SHARED = 1
PTRACE_GETSIGMASK = 0x420A
PTRACE_SETSIGMASK = 0x420B
PTRACE_GET_SYSCALL_INFO = 0x420E
PTRACE_GET_RSEQ_CONFIGURATION = 0x420F
PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4211
PTRACE_EVENT_FORK = 1
PTRACE_EVENT_VFORK = 2
PTRACE_EVENT_CLONE = 3
PTRACE_EVENT_STOP = 128


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _PeekSiginfo(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("count", ctypes.c_int32))


_PTRACE_ARGUMENTS = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ptrace = quick["ptrace"]
_ptrace.argtypes = _PTRACE_ARGUMENTS
_ptrace.restype = ctypes.c_long
# For calls that are made once for each of many threads: without argtypes a call takes a third less
# time.  Numbers are then C ints, and an address must be a ctypes object.
_ptrace_quick = quick["ptrace"]
_ptrace_sleeping = sleeping["ptrace"]
_ptrace_sleeping.argtypes = _PTRACE_ARGUMENTS
_ptrace_sleeping.restype = ctypes.c_long


def seize(tid: int) -> None:
    """PTRACE_SEIZE without options: the thread runs on, and the kernel detaches it when we die.

    Sleeps while the thread is in execve(2) (cred_guard_mutex).  EPERM, ESRCH.
    """
    if _ptrace_sleeping(PTRACE_SEIZE, tid, None, None) < 0:
        raise failure()


def interrupt(tid: int) -> None:
    """Ask a seized thread to stop.  ESRCH."""
    if _ptrace_quick(PTRACE_INTERRUPT, tid, None, None) < 0:
        raise failure()


def resume(tid: int, signal: int) -> None:
    """Let a stopped thread run on, with the signal for which it stopped (0: none).  ESRCH."""
    if _ptrace(PTRACE_CONT, tid, None, signal) < 0:
        raise failure()


def detach(tid: int) -> None:
    """Detach a stopped thread: it goes on as before PTRACE_SEIZE.  ESRCH."""
    if _ptrace_quick(PTRACE_DETACH, tid, None, None) < 0:
        raise failure()


def poke_user(tid: int, offset: int, value: int) -> None:
    """Write one word of struct user, `offset` bytes into it.  ESRCH."""
    if _ptrace(PTRACE_POKEUSER, tid, offset, ctypes.c_void_p(value & (1 << 64) - 1)) < 0:
        raise failure()


_WIDEST_REGISTER = 64


class RegsetBuffer:
    """Room for register sets of up to `size` bytes.  A whole stop uses one buffer."""

    def __init__(self, size: int) -> None:
        # The kernel refuses a length that is not a multiple of one register of the set.
        self.size = -(-size // _WIDEST_REGISTER) * _WIDEST_REGISTER
        self._bytes = ctypes.create_string_buffer(self.size)
        self.address = ctypes.addressof(self._bytes)
        self.view = memoryview(self._bytes).cast("B")
        self.vector = _Iovec(self.address, self.size)
        self.reference = ctypes.byref(self.vector)


def get_regset(tid: int, note: int, buffer: RegsetBuffer) -> bytes:
    """One register set of a stopped thread, empty if this thread has none.

    EINVAL: this kernel does not have the set; ESRCH.
    """
    vector = buffer.vector
    vector.length = buffer.size
    if _ptrace_quick(PTRACE_GETREGSET, tid, note, buffer.reference) < 0:
        if ctypes.get_errno() in (errno.ENODEV, errno.ENXIO):
            return b""
        raise failure()
    return buffer.view[: vector.length].tobytes()


def set_regset(tid: int, note: int, data: bytes) -> None:
    """Write one register set of a stopped thread, or its beginning.  EINVAL, ESRCH."""
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = _Iovec(ctypes.addressof(buffer), len(data))
    if _ptrace(PTRACE_SETREGSET, tid, note, ctypes.addressof(vector)) < 0:
        raise failure()


def get_registers(tid: int, size: int, buffer: RegsetBuffer) -> bytes:
    """struct user_regs_struct of a stopped thread, `size` bytes, in the format of our own machine.

    PTRACE_GETREGSET chooses the format by the code segment in which the thread runs now.  This
    request and the next choose it by the caller (arch/x86/kernel/ptrace.c, arch_ptrace and
    task_user_regset_view).  ESRCH.
    """
    if _ptrace(PTRACE_GETREGS, tid, None, buffer.address) < 0:
        raise failure()
    return buffer.view[:size].tobytes()


def get_float_registers(tid: int, size: int, buffer: RegsetBuffer) -> bytes:
    """struct user_fpregs_struct, with the format chosen in the same way.  ESRCH."""
    if _ptrace(PTRACE_GETFPREGS, tid, None, buffer.address) < 0:
        raise failure()
    return buffer.view[:size].tobytes()


class _SyscallInfo(ctypes.Structure):
    """The beginning of struct ptrace_syscall_info (include/uapi/linux/ptrace.h)."""

    _fields_ = (("op", ctypes.c_uint8), ("_", ctypes.c_uint8 * 3), ("arch", ctypes.c_uint32))


def get_call_architecture(tid: int) -> int:
    """The architecture whose call numbers a stopped thread uses now: AUDIT_ARCH_*.  ESRCH."""
    info = _SyscallInfo()
    size = ctypes.sizeof(info)
    if _ptrace(PTRACE_GET_SYSCALL_INFO, tid, size, ctypes.addressof(info)) < 0:
        raise failure()
    return int(info.arch)


class _Answers(threading.local):
    """Buffers for short answers of the kernel, made once for each calling thread.

    Making one takes about as long as a call, and there are many calls for each tracee.
    """

    def __init__(self) -> None:
        self.siginfo = Siginfo()
        self.to_siginfo = ctypes.byref(self.siginfo)
        self.which = _PeekSiginfo(offset=0, flags=0, count=1)
        self.to_which = ctypes.byref(self.which)
        self.mask = ctypes.c_uint64()
        self.to_mask = ctypes.byref(self.mask)


_answers = _Answers()


def get_signal_mask(tid: int) -> int:
    """Blocked signals of a stopped thread: bit n - 1 for signal n.  ESRCH."""
    answers = _answers
    if _ptrace_quick(PTRACE_GETSIGMASK, tid, 8, answers.to_mask) < 0:
        raise failure()
    return answers.mask.value


def get_pending(tid: int) -> int:
    """Signals that are queued for this stopped thread alone: bit n - 1 for signal n.  ESRCH."""
    found = 0
    answers = _answers
    which = answers.which
    which.offset = 0
    # One signal at a time: nearly every thread has none.
    while count := _ptrace_quick(PTRACE_PEEKSIGINFO, tid, answers.to_which, answers.to_siginfo):
        if count < 0:
            raise failure()
        found |= 1 << (answers.siginfo.signo - 1)
        which.offset += 1
    return found


def get_queued_sender(tid: int, number: int) -> int:
    """The pid, as the thread sees it, of the process that sent a signal that is queued for this
    stopped thread or its process.  0: it sees no such process, or no such signal is queued.
    ESRCH."""
    answers = _Answers()  # with flags of its own
    info, which = answers.siginfo, answers.which
    for which.flags in (0, PTRACE_PEEKSIGINFO_SHARED):
        which.offset = 0
        while count := _ptrace_quick(PTRACE_PEEKSIGINFO, tid, answers.to_which, answers.to_siginfo):
            if count < 0:
                raise failure()
            if info.signo == number:
                return int(info.pid)
            which.offset += 1
    return 0


def get_sender(tid: int) -> int:
    """The pid, as above, of the process that sent the signal for which this thread stands in a stop
    (signal-delivery-stop).  ESRCH."""
    answers = _answers
    if _ptrace_quick(PTRACE_GETSIGINFO, tid, None, answers.to_siginfo) < 0:
        raise failure()
    return int(answers.siginfo.pid)


def get_stop(tid: int) -> int | None:
    """The wait status of the stop in which a tracee stands; None: in none.

    The kernel reports a stop once, to any thread of ours that waits for any child (waitpid(-1),
    without __WNOTHREAD).  But it keeps the siginfo, whose code is the status of all stops but those
    for a signal (kernel/signal.c, ptrace_do_notify).
    """
    answers = _answers
    info = answers.siginfo
    if _ptrace_quick(PTRACE_GETSIGINFO, tid, None, answers.to_siginfo) < 0:
        return None
    is_for_signal = info.code & 0x7F != info.signo or not info.code >> 7
    return int(info.signo if is_for_signal else info.code) << 8 | 0x7F


# To make calls in a stopped thread (sources/injection.py).


class Options(enum.IntFlag):
    """PTRACE_O_*."""

    NONE = 0
    TRACESYSGOOD = 1
    TRACEFORK = 1 << PTRACE_EVENT_FORK
    TRACEVFORK = 1 << PTRACE_EVENT_VFORK
    TRACECLONE = 1 << PTRACE_EVENT_CLONE
    EXITKILL = 1 << 20
    SUSPEND_SECCOMP = 1 << 21


def set_options(tid: int, options: Options) -> None:
    """EPERM: SUSPEND_SECCOMP is not for us.  ESRCH."""
    if _ptrace(PTRACE_SETOPTIONS, tid, None, int(options)) < 0:
        raise failure()


def resume_to_call(tid: int) -> None:
    """Let a stopped thread run to the next entry into a system call or exit from it.  ESRCH."""
    if _ptrace(PTRACE_SYSCALL, tid, None, None) < 0:
        raise failure()


def get_event_message(tid: int) -> int:
    """What the event is about: in an event of clone(2), the new thread.  ESRCH."""
    message = ctypes.c_ulong()
    if _ptrace(PTRACE_GETEVENTMSG, tid, None, ctypes.addressof(message)) < 0:
        raise failure()
    return message.value


def set_signal_mask(tid: int, mask: int) -> None:
    """Block these signals of a stopped thread: bit n - 1 for signal n.  ESRCH."""
    value = ctypes.c_uint64(mask)
    if _ptrace(PTRACE_SETSIGMASK, tid, 8, ctypes.addressof(value)) < 0:
        raise failure()


class _RseqConfiguration(ctypes.Structure):
    _fields_ = (
        ("pointer", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("signature", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


def get_rseq(tid: int) -> int:
    """The address of struct rseq of a stopped thread; 0: it has none.  EIO: this kernel is older
    than the request (5.13).  ESRCH."""
    found = _RseqConfiguration()
    size = ctypes.sizeof(found)
    if _ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, size, ctypes.addressof(found)) < 0:
        raise failure()
    return int(found.pointer)


class _DispatchConfig(ctypes.Structure):
    _fields_ = (
        ("mode", ctypes.c_uint64),
        ("selector", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
    )


def dispatches_calls(tid: int) -> bool:
    """True if calls of a stopped thread may come back to it as SIGSYS (prctl(2),
    PR_SET_SYSCALL_USER_DISPATCH).  EIO: this kernel is older than the request (6.4).  ESRCH."""
    found = _DispatchConfig()
    size = ctypes.sizeof(found)
    request = PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
    if _ptrace(request, tid, size, ctypes.addressof(found)) < 0:
        raise failure()
    return bool(found.mode)

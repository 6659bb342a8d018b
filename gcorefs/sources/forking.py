"""A child of the process, made by fork(2) in the process itself, that never runs.

The child has all private memory as it was at the fork; the kernel copies a page when one of the two
writes to it.  So the process stands still for as long as the kernel takes to copy page tables.

No program expects a child that it has not made.  So the child has no exit signal, no file, and no
place among the children of the process:

- The caller, a thread of the process, makes a first child that shares all its memory (A).  It has
  no exit signal, so only wait4(2) with __WALL sees it.
- A gives up all files (close_range(2), CLOSE_RANGE_UNSHARE), so that no pipe, lock or socket stays
  open, and makes the second child (B), which has the memory.
- A is killed, and the caller reaps it.  B goes to the init of its pid namespace, or to the nearest
  subreaper (prctl(2), PR_SET_CHILD_SUBREAPER).  If that would be the process itself, or one that
  reaps no orphans, B is made as a child of the process at once (CLONE_PARENT), without an exit
  signal; then the process must reap it at the end (`reap_child`).

We trace both from their birth, before their first instruction, with PTRACE_O_EXITKILL: they die
with us.  A stays a zombie of the process if we die between the two calls.
"""

import contextlib
import errno
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gcorefs import tuning
from gcorefs.arch.machine import Machine
from gcorefs.kernel import process_vm, ptrace, wait4
from gcorefs.kernel.open_file import OpenFile
from gcorefs.kernel.proc import procfile, task_status
from gcorefs.kernel.ptrace import Options
from gcorefs.process.cgroups import dies_together, is_frozen, memory_limits
from gcorefs.process.flushed_files import served_file
from gcorefs.process.mem import MemFile
from gcorefs.sources.injection import (
    STEP,
    Answer,
    Caller,
    Injection,
    NotInjected,
    await_stop,
    find_caller,
)
from gcorefs.steps import Step

# include/uapi/linux/sched.h, close_range.h, prctl.h, wait.h
_CLONE_VM, _CLONE_FS, _CLONE_FILES, _CLONE_PARENT = 0x100, 0x200, 0x400, 0x8000
_CLOSE_RANGE_UNSHARE = 2
_EVERY_FILE = 0xFFFFFFFF
_PR_GET_CHILD_SUBREAPER = 37
_PID_NAMESPACE_OF_MACHINE = "pid:[4026531836]"  # include/uapi/linux/nsfs.h, PID_NS_INIT_INO
_WAIT_ALL = wait4.WALL | os.WNOHANG

_KILLED_FIRST = b"1000"
"""oom_score_adj of the child: if there is too little memory for what is written, the kernel kills
the child and not the process."""

_SECONDS_PER_GIBIBYTE = 1.0
"""For the fork itself, which takes 20 ms with small pages."""


@dataclass(frozen=True, slots=True)
class Child:
    """A child of the process that never runs."""

    pid: int
    number: int
    """Its pid in the pid namespace of the process."""
    is_own: bool
    """True if the process must reap it."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A process that stands still, and is to have a child."""

    pid: int
    machine: Machine
    tids: Sequence[int]
    """Threads in the stop of our interrupt, without a signal."""
    vdso: tuple[int, int]
    """Where [vdso] is; an empty range if it has none."""


def fork(parent: Parent) -> Child:
    """Make a child.  Only the OS thread that traces the process may call this, and it traces the
    child.

    NotInjected: there is none, and the process goes on as before.  OSError.
    """
    resident = _refuse(parent.pid)
    caller = _caller(parent)
    machine = parent.machine
    stack = machine.word(caller.general, machine.stack_pointer) & machine.most
    word = _Word(parent.pid, stack & ~7)
    injection = Injection(machine, caller)
    birth = _Birth(injection, word, STEP + _SECONDS_PER_GIBIBYTE * (resident >> 30))
    with _injecting(parent.pid, injection):
        return birth.give(is_own=not _is_orphan_reaped(parent.pid))


def reap_child(child: Child, parent: Parent) -> None:
    """Let the process reap a child that is dead.  NotInjected, OSError."""
    if is_frozen(parent.pid):  # it would stop for us, but not make the call
        raise NotInjected("its cgroup is frozen")
    injection = Injection(parent.machine, _caller(parent))
    with _injecting(parent.pid, injection):
        injection.call("wait4", child.number, 0, _WAIT_ALL)


def _caller(parent: Parent) -> Caller:
    if not parent.tids:
        raise NotInjected("job control has stopped it")
    memory = MemFile(parent.pid, parent.tids[0])
    return find_caller(parent.machine, parent.tids, memory, parent.vdso)


@contextlib.contextmanager
def _injecting(pid: int, injection: Injection) -> Iterator[None]:
    try:
        tuning.now().reach(Step.FORKING, pid)
        injection.begin()
        tuning.now().reach(Step.INJECTING, pid)
        yield
    finally:
        injection.undo()
        tuning.now().reach(Step.FORKED, pid)
        with contextlib.suppress(OSError):
            injection.stop_again(pid)


def _refuse(pid: int) -> int:
    """Refuse a process that would be hurt.  Returns how many bytes of memory it has.

    NotInjected, ESRCH."""
    # The child would be the first of the new namespace.  No other could follow it in a pid
    # namespace, and nobody could set the clocks of a time namespace any more.
    for kind in ("pid", "time"):
        if not _has_children_here(pid, kind):
            raise NotInjected(f"its children come into another {kind} namespace (unshare(2))")
    if is_frozen(pid):
        raise NotInjected("its cgroup is frozen")
    if dies_together(str(pid)):  # the child is killed first
        raise NotInjected("if memory gets short, its cgroup dies as a whole (memory.oom.group)")
    if kind := served_file(pid):
        raise NotInjected(f"a child that closes its files would wait for a server: {kind}")
    status = task_status.status(pid)
    resident = int(status.get("RssAnon", b"0").split()[0]) << 10
    # Both may come to have all of it, and the kernel counts that for the process.
    left = min((limit.left for limit in memory_limits(str(pid))), default=resident)
    if left < resident:
        raise NotInjected("a memory limit of its cgroup has no room for what it may write")
    return resident


def _has_children_here(pid: int, kind: str) -> bool:
    """True if its children come into its own namespace (pid_namespaces(7), time_namespaces(7))."""
    space, of_children = (f"/proc/{pid}/ns/{name}" for name in (kind, f"{kind}_for_children"))
    try:
        return os.readlink(space) == os.readlink(of_children)
    except FileNotFoundError:  # nobody is in the other one yet, or the kernel is older than it
        return not os.path.lexists(space)


def _is_orphan_reaped(pid: int) -> bool:
    """True if another process gets orphans of this one, and cares for them.

    The first process of a container is often one that waits for no child that it does not know.
    Then each orphan would stay a zombie for as long as the container runs.
    """
    found = task_status.status(pid)
    numbers = found.get("NSpid", b"0").split()
    if numbers[-1] == b"1":
        return False
    if len(numbers) == 1:
        is_of_machine = os.readlink(f"/proc/{pid}/ns/pid") == _PID_NAMESPACE_OF_MACHINE
        return is_of_machine or _cares_for_orphans(task_status.status(1))
    while (above := int(found["PPid"])) > 0:
        found = task_status.status(above)
        of_parent = found["NSpid"].split()
        if len(of_parent) < len(numbers):  # setns(2): the first one is not among its ancestors
            return False
        if of_parent[-1] == b"1":
            return _cares_for_orphans(found)
    return False


def _cares_for_orphans(status: Mapping[str, bytes]) -> bool:
    """True if SIGCHLD is caught, ignored (wait(2): then nothing stays) or blocked, for signalfd(2)
    or sigwaitinfo(2)."""
    signals = int(status["SigCgt"], 16) | int(status["SigIgn"], 16) | int(status["SigBlk"], 16)
    return bool(signals & 1 << (signal.SIGCHLD - 1))


class _Word:
    """A word of the stack of the caller, into which a call writes, and which is put back."""

    def __init__(self, pid: int, address: int) -> None:
        """NotInjected: the stack pointer leads into no memory; OSError."""
        # Not /proc/PID/mem: a read below a stack makes the stack grow (mm/memory.c,
        # __access_remote_vm).
        try:
            process_vm.read_memory(pid, address, memoryview(bytearray(8)))
        except OSError as error:
            if error.errno == errno.EFAULT:
                raise NotInjected("its stack pointer leads into no memory") from error
        self.address = address
        self._file = OpenFile(procfile.open_file(f"{pid}/mem", os.O_RDWR))
        self._bytes = self.read()

    def read(self) -> bytes:
        return os.pread(self._file.number, 8, self.address)

    def put_back(self) -> None:
        """A write that changes nothing would still give the process a copy of a page that it may
        not write itself: a stack pointer may lead anywhere."""
        if self.read() != self._bytes:
            os.pwrite(self._file.number, self._bytes, self.address)


class _Birth:
    """The two children, made one by the other."""

    def __init__(self, injection: Injection, word: _Word, seconds: float) -> None:
        """`seconds`: the most that the fork may take."""
        self._injection = injection
        self._word = word
        self._seconds = seconds

    def give(self, is_own: bool) -> Child:
        """`is_own`: the second one is to be a child of the process.  NotInjected, OSError."""
        is_own = is_own or self._is_subreaper()
        flags = _CLONE_VM | _CLONE_FS | _CLONE_FILES
        first = _made("clone", self._injection.call("clone", flags))
        second = Answer(0, 0)
        try:
            try:
                _await_birth(first.child, self._injection.options | Options.EXITKILL)
                self._close_files(first.child)
                second = _made("clone", self._clone(first.child, is_own))
                _await_birth(second.child, Options.EXITKILL)
                with contextlib.suppress(OSError):
                    _kill_first(second.child)
            finally:
                self._end(first)
        except BaseException:
            if second.child:
                self._end(second, is_own)
            raise
        return Child(second.child, second.result, is_own)

    def _close_files(self, tid: int) -> None:
        arguments = 0, _EVERY_FILE, _CLOSE_RANGE_UNSHARE
        _made("close_range", self._injection.call_in(tid, "close_range", *arguments))

    def _clone(self, tid: int, is_own: bool) -> Answer:
        flags = _CLONE_PARENT if is_own else 0
        return self._injection.call_in(tid, "clone", flags, seconds=self._seconds)

    def _end(self, child: Answer, is_own: bool = True) -> None:
        """If it does not die at once, the caller does not wait for it: that would hurt the process
        more than a zombie."""
        if end(child.child) and is_own:
            self._injection.call("wait4", child.result, 0, _WAIT_ALL)

    def _is_subreaper(self) -> bool:
        """True if orphans come to the process (PR_GET_CHILD_SUBREAPER)."""
        try:
            answer = self._injection.call("prctl", _PR_GET_CHILD_SUBREAPER, self._word.address)
            return answer.result != 0 or any(self._word.read()[:4])
        finally:
            self._word.put_back()


def _made(name: str, answer: Answer) -> Answer:
    """NotInjected: the call has failed."""
    if answer.result < 0:
        raise NotInjected(f"{name}: {os.strerror(-answer.result)}")
    return answer


def _await_birth(tid: int, options: Options) -> None:
    """A child of a traced thread begins in a stop.  It dies with us from now on."""
    if (status := await_stop(tid, STEP)) is None or not os.WIFSTOPPED(status):
        raise NotInjected("the child was killed")
    ptrace.set_options(tid, options)


def _kill_first(pid: int) -> None:
    file = OpenFile(procfile.open_file(f"{pid}/oom_score_adj", os.O_WRONLY))
    os.write(file.number, _KILLED_FIRST)


def kill(child: Child) -> bool:
    """In any thread, unless the child may be reaped meanwhile.  False: we may not, because we have
    given up the rights that we had at its birth.  Then it dies when its OS thread ends."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(child.pid, signal.SIGKILL)
        except PermissionError:
            return False
    return True


def is_dead(child: Child) -> bool:
    """True if it is dead.  Then it is reaped.  In the OS thread that traces it."""
    try:
        status = wait4.poll_status(child.pid)
    except ChildProcessError:
        return True
    return status is not None and not os.WIFSTOPPED(status)


def end(pid: int) -> bool:
    """Kill a tracee of this OS thread that is no thread of the process, and reap it.  False: it
    does not die, because it waits in the kernel."""
    try:
        os.kill(pid, signal.SIGKILL)
        while (status := await_stop(pid, STEP)) is not None:
            if not os.WIFSTOPPED(status):  # else it is that of a stop before
                return True
    except (ProcessLookupError, ChildProcessError):
        return True
    except PermissionError:  # as in `kill`
        return False
    return False

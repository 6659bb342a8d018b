"""Threads of our own.  The kernel may refuse to start another one."""

import _thread
import errno
import functools
import mmap
import os
import queue
import resource
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ParamSpec

from gcorefs.errors import GcorefsError
from gcorefs.kernel.libc import quick
from gcorefs.kernel.proc import task_stat

P = ParamSpec("P")

_PR_SET_NAME = 15  # linux/prctl.h
_NAP = 50e-6
_DEFAULT_STACK = 8 << 20  # glibc's ARCH_STACK_DEFAULT_SIZE is less
_ROOM = 2 << 20
"""Bytes: an arena of pymalloc has 1 MiB (Objects/obmalloc.c)."""


class NoThread(GcorefsError, OSError):
    """EAGAIN: no further thread can be started (pthread_create(3)).  The limit is RLIMIT_AS, which
    has no room for a stack, RLIMIT_NPROC, threads-max, or pids.max of a control group."""

    def __init__(self) -> None:
        text = "no further thread can be started (RLIMIT_AS, RLIMIT_NPROC, pids.max)"
        super().__init__(errno.EAGAIN, text)


def name_task(name: bytes) -> None:
    """Name the task of this thread (proc(5), comm).  Of a longer name 15 bytes stay."""
    quick["prctl"](_PR_SET_NAME, name, 0, 0, 0)


def is_room_for_thread() -> bool:
    """False if a thread could be started and then lack memory for its first frame.

    Call it in front of threading.Thread.start(), also of a library's: that blocks forever for such
    a thread (see `_body`).  It costs 10 us, where memory can be refused at all.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY and not _is_strict():
        return True
    # glibc takes this limit (pthread_create(3)).  threading.stack_size() would change the size.
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    size = (_DEFAULT_STACK if stack == resource.RLIM_INFINITY else stack) + _ROOM
    try:
        mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


@functools.cache
def _is_strict() -> bool:
    """True if the kernel refuses memory that it may not have later (proc_sys_vm(5),
    overcommit_memory), or if /proc does not tell.  Looked at once: an administrator sets it at the
    start of the machine."""
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_bytes().strip() == b"2"
    except OSError:
        return True


def is_no_thread(error: BaseException) -> bool:
    """True for the error of CPython if pthread_create(3) fails (Modules/_threadmodule.c)."""
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


class Running:
    """A thread of our own that has begun.  The interpreter does not wait for it at its end."""

    def __init__(self, name: str, call: Callable[[], None]) -> None:
        """NoThread.  `name`: 15 bytes of it are the name of the task (proc(5), comm)."""
        self._said: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        body = _body(self._said, name.encode(), call)
        try:
            _thread.start_new_thread(next, (body, None))
        except RuntimeError as error:
            if is_no_thread(error):
                raise NoThread from error
            raise
        began = self._said.get()
        if began is None:
            raise NoThread
        self.tid = began
        self._start_time = _start_time(began)

    @property
    def has_ended(self) -> bool:
        """True if it makes no call any more.  Its task may be there for another moment."""
        return not self._said.empty()

    def join(self, timeout: float = threading.TIMEOUT_MAX) -> None:
        """Block until the kernel has ended it too, or for `timeout` seconds."""
        try:
            self._said.put(self._said.get(timeout=timeout))  # for whoever asks later
        except queue.Empty:
            return
        while self._has_task():
            time.sleep(_NAP)

    def _has_task(self) -> bool:
        """True if the kernel still has the thread, which makes no call any more.  Another thread of
        ours may have its tid by now; that one began later."""
        return 0 < _start_time(self.tid) <= self._start_time


def _start_time(tid: int) -> int:
    """Of a thread of ours, as in Stat; 0 if it has ended."""
    try:
        return task_stat.stat(os.getpid(), tid).start_time
    except OSError:
        return 0


def _body(
    said: "queue.SimpleQueue[int | None]", name: bytes, call: Callable[[], None]
) -> Iterator[None]:
    """What the thread does: it says its tid, makes the call, and says that it ends.

    threading.Thread.start() blocks forever if the new thread has no memory for its first frame,
    because that thread never says that it has begun (seen with CPython 3.11 under RLIMIT_AS).  The
    frame of a generator is a part of the generator.  So this one runs without that memory, and says
    so.
    """
    try:
        try:
            name_task(name)  # in a frame that stays for the next call
        except MemoryError:
            return
        said.put(threading.get_native_id())
        call()
    finally:
        said.put(None)
    yield  # never reached: it makes a generator of this function


def count_tasks() -> int:
    """The number of threads of this process, also of those that Python does not know of."""
    return len(os.listdir("/proc/self/task"))


def await_alone() -> None:
    """Block until this is the only thread of the process."""
    while count_tasks() > 1:
        time.sleep(_NAP)


def start_thread(name: str, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> Running:
    """Run `call` in a new thread.  NoThread."""
    return Running(name, partial(call, *args, **kwargs))

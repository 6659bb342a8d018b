"""The child of a process that is forked for its memory, from its birth to its end.

Only the OS thread that traces the process can make the child, and the child is its tracee until it
is killed.  So other threads ask, and this OS thread answers when it wakes up.
"""

import threading
from collections import deque
from collections.abc import Callable

from gcorefs.kernel import wait4
from gcorefs.sources.forking import Child, end, is_dead, kill
from gcorefs.sources.injection import NotInjected


class Request:
    """Calls for the OS thread to make in the process, for which somebody waits."""

    def __init__(self, work: Callable[[], Child | None]) -> None:
        self.is_done = threading.Event()
        self._work = work
        self._child: Child | None = None
        self._failure: list[BaseException] = []

    def result(self) -> Child | None:
        """What the work has returned, when it is done.  NotInjected, OSError."""
        if self._failure:  # pop it: its traceback refers to this frame, which makes a cycle
            raise self._failure.pop()
        return self._child

    def do(self) -> Child | None:
        """Do the work, in the OS thread."""
        try:
            self._child = self._work()
        except BaseException as error:  # `result` raises it
            self._failure.append(error)
        self.is_done.set()
        return self._child

    def refuse(self, why: str) -> None:
        self._failure.append(NotInjected(why))
        self.is_done.set()


class Nurse:
    """At most one child of one process."""

    def __init__(self) -> None:
        self.child: Child | None = None
        """None: there is none, or it is dead."""
        self.unreaped: Child | None = None
        """A child that is dead, and that the process still has to reap."""
        self.was_asked = False
        """True if somebody has asked for a child, which may be on its way."""
        self._requests: deque[Request] = deque()
        self._lock = threading.Lock()  # a child that is reaped may not be killed
        self._is_over = False
        self._is_unwanted = False
        self._is_left = False  # to the kernel, which kills it when the OS thread ends

    # In any thread.

    def ask(self, work: Callable[[], Child | None]) -> Request:
        """Have work done that may make a child.  Wake the OS thread after that."""
        request = Request(work)
        self.was_asked = True
        with self._lock:
            if self._is_over:
                request.refuse("the process is let go")
            else:
                self._requests.append(request)
        return request

    def kill(self) -> None:
        """Kill the child.  The OS thread waits for its end."""
        with self._lock:
            self._is_unwanted = True  # also one that is born just now
            if self.child is not None:
                self._is_left = not kill(self.child)

    def forget(self) -> None:
        """Nobody reaps the child any more."""
        self.unreaped = None

    # In the OS thread.

    def tend(self) -> None:
        """Do what was asked for, and part with a child that is dead."""
        self._part_with_dead()
        while self._requests:
            request = self._requests.popleft()
            if self.child is not None or self.unreaped is not None:
                request.refuse("this stop has forked it already")
            else:
                self._keep(request.do())

    def _keep(self, child: Child | None) -> None:
        with self._lock:
            self.child = child
            if child is not None and self._is_unwanted:
                self._is_left = not kill(child)

    def watch(self) -> None:
        """Sleep until the child is dead, or left to the kernel.  The process runs."""
        while self.child is not None and not self._is_left:
            wait4.await_status()
            self._part_with_dead()

    def _part_with_dead(self) -> None:
        with self._lock:
            if self.child is not None and is_dead(self.child):
                self._part()

    def _part(self) -> None:
        if self.child is not None and self.child.is_own:
            self.unreaped = self.child
        self.child = None

    def close(self) -> None:
        """Nobody gets a child any more.  One that is there dies."""
        with self._lock:
            self._is_over = True
            if self.child is not None:
                end(self.child.pid)
                self._part()
        while self._requests:
            self._requests.popleft().refuse("the process is let go")

"""The child that a stop has its process make (hold=fork), until nothing is left of it.

Some children the process itself must reap (sources/forking.py).  It cannot know of them, so it is
stopped once more for that, when its own stop is over.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from gcorefs.errors import GcorefsError
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process.child_memory import NotForked
from gcorefs.process.errors import ProcessError, Reason, named
from gcorefs.sources.forking import Child, Parent, fork, reap_child
from gcorefs.sources.injection import Calls, NotInjected
from gcorefs.sources.onlooker import Onlooker
from gcorefs.sources.tracer import Tracer
from gcorefs.standstill import Standstill

_LONGEST_CALLS = 60.0
"""Seconds.  Each call has a limit of its own (sources/injection.py)."""

_REAP_PATIENCE = 0.5
"""Seconds that threads have to stop when the process is to reap a child.  No max_stop bounds it."""

_NOT_NOW = (NotForked, GcorefsError, OSError, MemoryError)
"""Why a stop can fail that may succeed later: no thread, no memory, another tracer."""

_REAP_TIME = 3.0
_REAP_NAP = 0.05
"""Seconds in which we try to have a process reap a child, and between the first two tries; they
double."""


class Again(Protocol):
    """Another stop of the process."""

    @property
    def child(self) -> "ForkedChild": ...

    def take(self) -> None:
        """Stop and record every thread.  ProcessError."""

    def standstill(self) -> Standstill:
        """The process, which stands still.  EIO."""

    def close(self) -> None:
        """Let every thread go."""


class ForkedChild:
    """The child of one stop, of which there is one at most."""

    def __init__(
        self,
        process: Process,
        policy: Policy,
        tracer: Tracer | Onlooker,
        stop_again: Callable[[Process, Policy], Again],
    ) -> None:
        """`tracer`: that of the stop, which makes the child.  An onlooker makes none."""
        self._process = process
        self._policy = policy
        self._tracer = tracer if isinstance(tracer, Tracer) else None
        self._stop_again = stop_again
        self._calls = Calls()
        self._is_unwanted = False
        self._reaping = threading.Lock()

    def make(self, seen: Standstill) -> Child:
        """Let the process make a child that has its memory (sources/forking.py).

        The child is there until `end`.  NotForked: there is none, and why; ProcessError.
        """
        child = self._inject(seen, fork, self._calls)
        assert child is not None
        return child

    def _inject(
        self, seen: Standstill, work: Callable[[Parent], Child | None], calls: Calls
    ) -> Child | None:
        try:
            if seen.late or self._tracer is None:
                raise NotForked("not all of its threads stand still")
            with calls.one():
                return self._tracer.inject(partial(work, seen.parent()))
        except NotInjected as error:
            raise NotForked(str(error)) from error
        except OSError as error:
            seen.check()
            raise NotForked(named(error)) from error

    @property
    def exists(self) -> bool:
        """True from its birth until nothing is left of it."""
        return self._tracer is not None and self._tracer.has_child

    def end_calls(self) -> None:
        """Make no more calls in the process, and wait for the end of those that are under way: our
        program may end now."""
        self._calls.end(_LONGEST_CALLS)

    def kill(self) -> None:
        """Kill the child, if there is one.  `end` comes later."""
        if self._tracer is not None:
            self._tracer.kill_child()

    def end(self) -> None:
        """Kill the child, if there is one.  If the process is let go, wait until nothing is left of
        it; else `end_unwanted` does that."""
        if self._tracer is not None:
            self._tracer.kill_child()
            self._is_unwanted = True
            if self._tracer.is_released:
                self._reap(self._tracer)

    def end_unwanted(self) -> None:
        """The process is let go now.  Wait for the end of a child for which `end` was called."""
        if self._is_unwanted and self._tracer is not None:
            self._reap(self._tracer)

    def _reap(self, tracer: Tracer) -> None:
        """If the child is one that the process has to reap, stop it once more for that."""
        with self._reaping:  # another thread that ends the child waits until it is reaped
            child = tracer.unreaped()
            if child is None:
                return
            deadline = time.monotonic() + _REAP_TIME
            nap = _REAP_NAP
            try:
                while not self._have_reaped(child) and (left := deadline - time.monotonic()) > 0:
                    time.sleep(min(nap, left))
                    nap *= 2
            finally:
                tracer.forget_child()

    def _have_reaped(self, child: Child) -> bool:
        """False: try again.  Another one may trace the process now."""
        patience = min(self._policy.stop_timeout, _REAP_PATIENCE)
        policy = replace(self._policy, hold="stop", stop_timeout=patience)
        with contextlib.closing(self._stop_again(self._process, policy)) as stop:
            try:
                stop.take()
                stop.child._inject(stop.standstill(), partial(reap_child, child), self._calls)
            except ProcessError as error:
                # If the process is gone, its children are gone with it.  And we may have given up
                # the right to stop it.
                return error.reason in (Reason.GONE, Reason.DIED, Reason.DENIED)
            except _NOT_NOW:
                return False
            return True

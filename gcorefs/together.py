"""Several processes that stand still at one time.

    with stop_together(processes, policy) as together:
        for stop, core in together.cores():
            ...

All are stopped side by side.  No core is made before all stand still, and none of them is let go
before the last core is made, or, if its memory is not copied, before the end of the block.  So the
cores fit together: memory that the processes share is the same in each.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from gcorefs.api import Core, Stop
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.threads import NoThread
from gcorefs.process.worker_threads import Worker

T = TypeVar("T")

_ENDED = (Reason.GONE, Reason.DIED)


def stop_together(processes: Sequence[int | Process], policy: Policy = DEFAULT) -> "Together":
    """A context manager: these processes stand still in the `with` block.

    The `with` statement raises ProcessError if one of them cannot be stopped, and then lets all go.
    One that has ended meanwhile is left out, unless no other one is left.  The limits of copies in
    `policy` hold for all of them together.
    """
    return Together(processes, policy)


class Together:
    """Several processes, stopped from the beginning of a `with` block to its end."""

    def __init__(self, processes: Sequence[int | Process], policy: Policy = DEFAULT) -> None:
        self.stops: list[Stop] = []
        """Of the processes that were stopped; empty before that."""
        self.ended: list[ProcessError] = []
        """About those that had ended."""
        self._processes = processes
        self._policy = replace(
            policy,
            copy_limit=max(1, policy.copy_limit // max(1, len(processes))),
            spool_limit=max(1, policy.spool_limit // max(1, len(processes))),
        )

    def __enter__(self) -> "Together":
        try:
            stopped = self._stop()
        except BaseException:
            self._close()
            raise
        self.stops[:] = stopped
        return self

    def _stop(self) -> list[Stop]:
        """Those that stand still."""
        for process in self._processes:
            with self._unless_ended():
                self.stops.append(Stop(process, self._policy))
        stopped = []
        entering = _begin([each.__enter__ for each in self.stops])
        for stop, entered in zip(self.stops, entering, strict=True):
            with self._unless_ended():
                entered.result()
                stopped.append(stop)
        if not stopped and self.ended:
            raise self.ended[0]
        return stopped

    def __exit__(self, *_: object) -> None:
        self._close()

    def cores(self) -> list[tuple[Stop, Core]]:
        """The core of each process that still lives, with its stop.  ProcessError."""
        found = []
        for stop in self.stops:
            with self._unless_ended():
                found.append((stop, stop.core(runs_on=False)))
        for stop in self.stops:
            stop.run_on()
        return found

    def _close(self) -> None:
        closing = []
        for stop in self.stops:
            try:
                closing += _begin([stop.__exit__])
            except NoThread:
                stop.__exit__()
        for each in closing:
            each.result()

    @contextlib.contextmanager
    def _unless_ended(self) -> Iterator[None]:
        try:
            yield
        except ProcessError as error:
            if error.reason not in _ENDED:
                raise
            self.ended.append(error)


def _begin(calls: Sequence[Callable[[], T]]) -> "list[Future[T]]":
    """Make these calls side by side, each in a thread of its own.  NoThread."""
    futures = []
    for call in calls:
        with contextlib.closing(Worker()) as worker:
            futures.append(worker.submit(call))
    return futures

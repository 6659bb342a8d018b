"""A stop within bounds, for the commands that need no mount."""

import concurrent.futures
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TypeVar

import click

from gcorefs.core import Core
from gcorefs.holder import Holder
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.later import Worker
from gcorefs.process.mark import mark
from gcorefs.stopped import CLOSE_TIMEOUT, TAKE_TIMEOUT, Stop

T = TypeVar("T")


def end_in_good_order() -> None:
    """Ended by a signal, we still let go, and leave no half of a file."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


@contextlib.contextmanager
def stopped(stop: Stop, policy: Policy, holder: Holder) -> Iterator[tuple[Core, Worker]]:
    """The process stands still in the block and runs on behind it, whatever ended it.

    The worker is for calls of the core, which may hang: the main thread is to be there for
    signals.  What hangs until the end is left behind; the kernel lets go what we leave traced.
    """
    mark()
    worker = Worker()

    def take() -> Core:
        stop.take(holder.prepare)
        return stop.core(holder=holder)

    try:
        timeout = policy.stop_timeout + TAKE_TIMEOUT
        yield (
            within(
                timeout, worker.submit(take), stop.process.pid, "it could not be recorded in time"
            ),
            worker,
        )
    finally:
        stop.let_go()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        closer = Worker()  # the other one may hang
        closing = closer.submit(stop.close)
        for each in (closer, worker):
            each.join(max(0.0, deadline - time.monotonic()))
        if closing.done():
            closing.result()


@contextlib.contextmanager
def late_awaited(stop: Stop) -> Iterator[None]:
    """Behind the block wait for threads that were interrupted and have not stopped yet.

    They would see it, if we ended before.  Not where a signal ends us.
    """
    try:
        yield
    except Exception:
        _await_late(stop)
        raise
    _await_late(stop)


def _await_late(stop: Stop) -> None:
    if late := stop.late:
        click.echo(
            f"process {stop.process.pid}: runs on; waiting for thread {late[0]}, which gets no "
            "CPU and has to stop once so that it never sees that it was interrupted",
            err=True,
        )
        while not stop.wait_late(_LATE_NAP):
            pass


_LATE_NAP = 1.0


def within(timeout: float, future: "Future[T]", pid: int, detail: str = "") -> T:
    """The result of what is done for process `pid`, or what it raises.

    EIO (STUCK): it is not there within `timeout` seconds.
    """
    # Not Future.result(timeout): its TimeoutError could be the call's own ETIMEDOUT.
    if not concurrent.futures.wait([future], timeout).done:
        raise ProcessError(Reason.STUCK, pid, detail)
    return future.result()

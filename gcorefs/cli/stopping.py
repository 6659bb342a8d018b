"""To take a snapshot and to close it, both in bounds: what the commands do who need no mount."""

import contextlib
import signal
import sys

from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.later import Worker
from gcorefs.snapshot import CLOSE_TIMEOUT, TAKE_TIMEOUT, Snapshot


def end_in_good_order() -> None:
    """Ended by a signal, we still let go, and leave no half of a file."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def take(snapshot: Snapshot, policy: Policy) -> None:
    taking = Worker().submit(snapshot.take)
    try:
        taking.result(policy.stop_timeout + TAKE_TIMEOUT)
    except TimeoutError as error:
        raise ProcessError(
            Reason.STUCK, snapshot.process.pid, "it could not be recorded in time"
        ) from error


def close(snapshot: Snapshot) -> None:
    """Whatever does not end in time, the kernel lets go when we end."""
    snapshot.let_go()
    with contextlib.suppress(TimeoutError):
        Worker().submit(snapshot.close).result(CLOSE_TIMEOUT)

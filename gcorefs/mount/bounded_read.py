"""Keeps the event loop from sleeping in a read of /dev/fuse.

pyfuse3 waits until the device is readable, and then reads.  If the request that made it readable is
withdrawn in between, the read sleeps until there is another one, and the event loop with it: the
kernel withdraws a request if the thread that made it is killed (fs/fuse/dev.c,
request_wait_answer), and an interrupt if its request has been answered (fuse_request_end).  That
may be never, and until then no process is let go.

The read cannot be made to fail instead (O_NONBLOCK): pyfuse3 ends the mount at EAGAIN.  At EINTR it
waits again.  So while the event loop is at work, a timer rings for its thread.
"""

import trio

from gcorefs.kernel.bell import RepeatedRing

_LONGEST = 0.01
"""Seconds."""


class BoundedRead(trio.abc.Instrument):
    """For the event loop of the thread that makes this."""

    def __init__(self) -> None:
        """EAGAIN, ENOMEM."""
        self._ring = RepeatedRing(_LONGEST)

    def after_io_wait(self, timeout: float) -> None:
        """The event loop begins to work."""
        self._ring.turn_on()

    def before_io_wait(self, timeout: float) -> None:
        """It has done all, and waits."""
        self._ring.turn_off()

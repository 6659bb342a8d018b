"""The bytes of one core, and the wait for them.

Everything here runs in the event loop; threads make the blocking calls of the core (reading.py).
No read waits without a bound, because a client that waits for the answer to a request cannot be
killed.
"""

import errno
from math import inf

import trio

from gcorefs.core import Core
from gcorefs.errors import Refusal
from gcorefs.mount.keeper import Keeper
from gcorefs.mount.pools import Pools
from gcorefs.mount.readahead import ReadAhead
from gcorefs.mount.reading import Reading
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason

_NOTHING = memoryview(b"")

_COPY_PATIENCE = 2.0
"""Seconds that reads of memory wait for the copy.  Reads during the copy only slow it down."""


class Reader:
    """One open file, as far as its reads go."""

    def __init__(self, opener: Opener, nonblocking: bool) -> None:
        self.opener = opener
        self.nonblocking = nonblocking
        self.ahead: ReadAhead | None = None  # None until the first read


class CoreBytes:
    """The bytes of one core for all its readers."""

    def __init__(self, keeper: Keeper, uid: int, pools: Pools) -> None:
        """`uid`: the user who began the core."""
        self.core: Core | None = None
        """None before the header is made, and after nobody can read it any more."""
        self.error: Refusal | None = None
        """Why there is no such core."""
        self.served = 0
        """Bytes read so far."""
        self.reads_under_way = 0
        self._keeper = keeper
        self._uid = uid
        self._pools = pools
        self._reading: Reading | None = None
        self._ready = trio.Event()
        self._settled = trio.Event()
        """Set when the memory is copied, or when it is certain that there will be no copy."""
        self._settled_by = inf

    # Whether they are there.

    @property
    def is_ready(self) -> bool:
        """True once nobody waits any more, because the core is made or has failed."""
        return self._ready.is_set()

    @property
    def is_over(self) -> bool:
        """True if memory cannot be read any more: the core failed, or the process died or was let
        go."""
        return self.error is not None or self._keeper.is_over

    @property
    def size(self) -> int | None:
        """Bytes of the file; None if there is no header, or none yet.  Any thread may ask."""
        core = self.core  # read it once: the event loop may drop it meanwhile
        return core.size if core is not None and self.is_ready else None

    async def ready(self) -> None:
        """Wait until `is_ready`."""
        await self._ready.wait()

    async def settled(self) -> None:
        """Wait until the memory is copied, or until it is certain that there will be no copy."""
        await self._settled.wait()

    # What the core tells them.

    def begin(self, core: Core) -> None:
        """Take the core.  Readers still wait, until `open`."""
        pools = self._pools
        self.core = core
        self._reading = Reading(core, self._uid, pools.buffers, pools.errands, pools.waits)

    def open(self) -> None:
        """Let everybody read who waits for the core."""
        self._settled_by = trio.current_time() + _COPY_PATIENCE
        self._ready.set()

    def settle(self) -> None:
        """The memory is copied, or there will be no copy."""
        self._settled.set()

    def fail(self, error: Refusal) -> None:
        """There is no such core: every reader gets `error`."""
        self.error = error
        self._settled.set()
        self._ready.set()
        self.forget()

    def forget(self) -> None:
        """Drop the header, which nobody can read any more."""
        self.core = self._reading = None

    # Reads.

    def at_hand(self, reader: Reader, offset: int, length: int) -> memoryview | None:
        """The bytes that `read` returns, if this takes only a moment.

        They are good until the event loop turns.  None: call `read`.
        """
        ahead, core, reading = reader.ahead, self.core, self._reading
        if ahead is None or self.is_over or not self._settled.is_set():
            return None
        if core is None or reading is None:
            return None
        length = min(length, core.size - offset)
        if length <= 0:  # an empty read ends the file: dd would never stop without it
            return _NOTHING
        data = reading.at_hand(ahead, offset, length)
        if data is not None:
            self.served += length
            self._keeper.touch()
        return data

    async def read(self, reader: Reader, offset: int, length: int) -> memoryview:
        """Bytes of the file, good until the event loop turns.  Fewer only at the end of the file.

        EAGAIN: the core is not ready, and the reader is non-blocking.  EIO: the process died or was
        let go, or the bytes did not come in time.  Else the error of the stop.
        """
        if not self.is_ready and reader.nonblocking:
            raise BlockingIOError(errno.EAGAIN, "not every thread is recorded yet")
        self.reads_under_way += 1
        try:
            await self._ready.wait()
            if self.error is not None:
                raise self.error.with_traceback(None)  # or the traceback grows with every read
            core, reading = self.core, self._reading
            if core is None or reading is None:
                raise ProcessError(Reason.LET_GO, self._keeper.process.pid)
            length = min(length, core.size - offset)
            if length <= 0:
                return _NOTHING
            if offset + length > core.layout.memory_offset and not reader.nonblocking:
                with trio.move_on_at(self._settled_by):
                    await self._settled.wait()
            if reader.ahead is None:
                reader.ahead = reading.reader(self._pools.windows, reader.opener.uid)
            # What was read ahead must not be served after the end of the stop.
            ahead = None if self.is_over else reader.ahead
            data = await reading.fetch(ahead, offset, length)
            self.served += length
            return data
        finally:
            self.reads_under_way -= 1
            self._keeper.touch()

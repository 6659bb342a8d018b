"""The memory of a process, in a child that it has forked and that never runs (hold=fork).

Only /proc/PID/mem is used.  process_vm_readv(2) pins the pages that it reads, and the kernel would
copy each of them first, because parent and child share it (mm/gup.c, gup_must_unshare).
"""

from collections.abc import Callable

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.mem import MemFile
from gcorefs.process.ranges import clear
from gcorefs.process.unreadable_pages import UnreadablePages


class NotForked(Exception):
    """The process is not forked; the text says why.  It stands still as before."""


def not_forked() -> "ChildMemory":
    raise NotForked("the process was not stopped to be forked")


class ChildMemory:
    """The child lives until `end`, or until the kernel kills it for its memory."""

    def __init__(self, mem: MemFile, end: Callable[[], None]) -> None:
        self._mem = mem
        self._end = end

    def read(self, address: int, buffer: memoryview, lost: UnreadablePages) -> None:
        """Fill `buffer` from `address`.  A page that cannot be read is zeros, and is `lost`.

        EIO: the child is gone.
        """
        done = 0
        while done < len(buffer):
            at = address + done
            try:
                count = self._mem.read(at, buffer[done:])
            except ProcessError as error:
                if error.reason is Reason.DIED:
                    raise ProcessError(Reason.CHILD_GONE, error.pid) from error
                raise
            if not count:
                count = min(len(buffer) - done, PAGE_SIZE - at % PAGE_SIZE)
                clear(buffer[done : done + count])
                lost.add(at)
            done += count

    def end(self) -> None:
        """Kill the child.  May block for as long as the kernel takes to free its memory."""
        self._end()

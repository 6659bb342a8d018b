"""process_vm_readv(2), if we may call it.

A seccomp filter around gcorefs may deny it with EPERM or ENOSYS, as the filters of containers do.
That is not an error here: this way reads nothing then, and another way reads everything.
"""

import errno
import functools
import os
from array import array

from gcorefs import tuning
from gcorefs.elfcore.columns import Column
from gcorefs.kernel import process_vm
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.ranges import Ranges
from gcorefs.steps import Step

_DENIED = (errno.EPERM, errno.ENOSYS)


@functools.cache
def is_denied() -> bool:
    """True if gcorefs may not read even its own memory in this way."""
    word = array("Q", (0,))
    address, _ = word.buffer_info()
    try:
        process_vm.read_memory(os.getpid(), address, memoryview(bytearray(word.itemsize)))
    except OSError as error:
        return error.errno in _DENIED
    return False


def way() -> str:
    """How memory is read, while nothing is known about its process."""
    return "/proc/PID/mem" if is_denied() else "process_vm_readv(2)"


class Readv:
    """The memory of process `pid`, read through its thread `tid`."""

    def __init__(self, pid: int, tid: int) -> None:
        self._pid = pid
        self._tid = tid
        self.is_denied = is_denied()
        """True if this way reads nothing, at least of this process."""

    def read(self, address: int, buffer: memoryview) -> int:
        """Read from `address`; fewer bytes before a page that cannot be read, 0 at such a page or
        if the call is denied.

        Waits, and can be killed, if somebody must supply a page.  ProcessError DIED.
        """
        tuning.now().reach(Step.READING, self._pid)
        try:
            return process_vm.read_memory(self._tid, address, buffer)
        except OSError as error:
            return self._nothing(error)

    def read_ranges(self, ranges: Ranges, buffer: memoryview) -> int:
        """Read at most 1,024 ranges, one after the other.  Else as `read`."""
        places: Column | None = ranges.places
        if ranges.is_in_a_row:
            buffer, places = buffer[ranges.places[0] :][: sum(ranges.lengths)], None
        try:
            return process_vm.read_memory_vector(
                self._tid, ranges.addresses, ranges.lengths, buffer, places
            )
        except OSError as error:
            return self._nothing(error)

    def _nothing(self, error: OSError) -> int:
        if error.errno == errno.ESRCH:
            raise ProcessError(Reason.DIED, self._pid) from error
        if error.errno in _DENIED:
            self.is_denied = True
        elif error.errno != errno.EFAULT:
            raise error
        return 0

"""What a source is.

A new source of registers, or of mappings, is one more module that has such a class.
"""

from collections.abc import Sequence
from typing import Protocol

from gcorefs.elfcore.vma import Vma
from gcorefs.sources.thread_record import ThreadRecord


class RegisterSource(Protocol):
    """Tells the registers of the threads of one process."""

    def record(self, tid: int) -> ThreadRecord:
        """What this source can tell of one thread, and how it was had.

        ProcessLookupError: the thread is gone.
        """


class MappingSource(Protocol):
    """Tells what one process has mapped."""

    def mappings(self) -> Sequence[Vma]:
        """Every mapping, in address order.

        MapsError: what was told cannot be trusted.  ProcessLookupError: the process is gone.
        """

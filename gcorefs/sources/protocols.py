"""The interface of a source.

A new source of registers or of mappings is one more module with such a class.
"""

from collections.abc import Sequence
from typing import Protocol

from gcorefs.elfcore.vma import Vma
from gcorefs.sources.thread_record import ThreadRecord


class RegisterSource(Protocol):
    """Gives the registers of the threads of one process."""

    def record(self, tid: int) -> ThreadRecord:
        """The registers of one thread as far as this source has them, and how they were had.

        ProcessLookupError: the thread is gone.
        """


class MappingSource(Protocol):
    """Gives the mappings of one process."""

    def mappings(self) -> Sequence[Vma]:
        """Every mapping, in address order.

        MapsError: the text cannot be trusted.  ProcessLookupError: the process is gone.
        """

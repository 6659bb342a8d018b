"""The progress of a stop, in a page that the worker and the server both map."""

import mmap
import os

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel import own_memory, robust_mutex
from gcorefs.kernel.open_file import OpenFile
from gcorefs.process.progress import Progress


def new_page() -> OpenFile:
    """A new page of zeros, in a memfd.  EMFILE."""
    page = OpenFile(os.memfd_create("gcorefs-progress", os.MFD_CLOEXEC))
    os.write(page.number, bytes(PAGE_SIZE))
    return page


class SharedProgress(Progress):
    """The Progress in such a page.

    The tracer holds a robust mutex in the page.  If the worker is killed, the kernel lets the
    process go and marks the mutex, so every reader sees that the tracer is gone.
    """

    def __init__(self, file: OpenFile) -> None:
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        super().__init__(own_memory.map_shared(file.number, PAGE_SIZE, prot))

    def own(self) -> None:
        robust_mutex.lock(self._page)

    def disown(self) -> None:
        robust_mutex.unlock(self._page)

    @property
    def is_tracer_gone(self) -> bool:
        return robust_mutex.has_owner_died(self._page)

"""One core: from an offset of the file to its bytes.

The header is here, memory is read from the process while it is held or from a copy of it, and
zeros are made.  All calls may come from any thread.
"""

from collections.abc import Callable, Container, Mapping
from concurrent.futures import Future

from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.provenance import Provenance
from gcorefs.elfcore.segments import ZEROS
from gcorefs.holder import Holder
from gcorefs.plan import CorePlan
from gcorefs.process import readv
from gcorefs.process.absent import MayWait
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.memory import Memory
from gcorefs.process.program import Program, program_of
from gcorefs.process.ranges import clear

READ_TIMEOUT = 10.0
"""Seconds that whoever reads memory should wait for one read.  A page that userfaultfd(2) is
to bring never comes while its handler is stopped."""

# As seen while it is taken: Vma, Segment and what refers to them, of which a third or less stays;
# of a piece of a mapping that is divided by what was never populated, a few columns
# (elfcore/segments.py).
_BYTES_PER_MAPPING = 700
_BYTES_PER_PIECE = 80


class Core:
    """The file of one process that is stopped, of `size` bytes."""

    def __init__(
        self,
        pid: int,
        plan: CorePlan,
        memory: Memory,
        holder: Holder,
        check: Callable[[], None],
        finishing: "Future[None] | None" = None,
    ) -> None:
        """`check` raises where the process does not stand still any more.

        `finishing`: what is left of the header, where some of it is made later.
        """
        self.pid = pid
        self.holder = holder
        self.layout: Layout = plan.layout
        self.provenance: Provenance = plan.provenance
        self._mappings = plan.mappings
        self._memory: Memory | None = memory
        self._lost = memory.lost
        self._check = check
        self._finishing = finishing
        self._program: Program | None = program_of(pid) if holder.is_copy else None

    # What it is.

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.layout.size

    @property
    def header_memory(self) -> int:
        """Bytes, about, that the header and the way into memory take here."""
        pieces = _BYTES_PER_PIECE * self.layout.phnum
        return self.layout.memory_offset + _BYTES_PER_MAPPING * self._mappings + pieces

    @property
    def threads(self) -> int:
        """Threads of the process, in the core or left out of it."""
        return self.provenance.stopped + self.unresponsive_threads

    @property
    def unresponsive_threads(self) -> int:
        """Those that did not stop."""
        return len(self.provenance.others)

    @property
    def starved_threads(self) -> int:
        """Of these, those that got no CPU to do so."""
        return len(self.provenance.no_cpu)

    @property
    def read_through(self) -> str:
        """How its private memory is read, but for pages that have to be read otherwise."""
        is_denied = self._memory is not None and self._memory.is_readv_denied
        return "/proc/PID/mem" if is_denied else readv.way()

    @property
    def unreadable(self) -> int:
        """Pages that are zeros in the file because they cannot be had, as far as is known: some
        are seen only when they are read.  Not counting the kernel's own, which nobody can read.
        """
        return self._lost.count

    @property
    def unreadable_ranges(self) -> list[tuple[int, int]]:
        """Where these are: start and end of each run."""
        return self._lost.ranges()

    # How its memory outlives the stop.

    @property
    def hold(self) -> Mapping[str, str]:
        """What was asked for, and what came of it."""
        return self.holder.facts()

    @property
    def not_copied(self) -> str:
        """Why the process is held all the same, where its memory was to be copied."""
        return self.holder.not_copied

    @property
    def is_copied(self) -> bool:
        """True where the memory is still to be had when the process has been let go."""
        return self.holder.is_filled

    def fill(self) -> None:
        """Copy the memory, where that is wanted and can be had at once."""
        memory = self._memory
        if memory is not None:
            self.holder.fill(self.layout, memory, self.finish)

    def finish(self, timeout: float | None = None) -> None:
        """Block until all of the header is made.  EIO where it cannot be any more."""
        if (finishing := self._finishing) is not None:
            finishing.result(timeout)

    def is_unchanged(self) -> bool:
        """True where the process, which runs by now, is still what was copied: the same program,
        of the same user, and no easier to trace.  ESRCH: it is gone.
        """
        memory = self._memory
        if memory is None:
            return False
        try:
            memory.check_pinned()
            return program_of(self.pid) == self._program
        except ProcessLookupError as error:
            raise ProcessError(Reason.GONE, self.pid) from error
        except OSError:  # it is becoming another, or nobody may see it any more
            return False

    # Its bytes.

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer only at the end of the file."""
        length = max(0, min(length, self.size - offset))
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(
        self, offset: int, buffer: memoryview, sources: Container[str] | None = None
    ) -> int:
        """Fill `buffer` from `offset` of the file; the count is short only at the end.

        EIO: the process died or was let go, and these bytes are its memory.  MayWait, once
        all before is done, at a page that others than `sources` have to bring (None: wait for
        anybody).
        """
        layout = self.layout
        end = min(offset + len(buffer), layout.size)
        buffer = buffer[: max(0, end - offset)]
        header = buffer[: max(0, layout.memory_offset - offset)]
        if header:
            self._read_header(offset, header)
        start = max(offset, layout.memory_offset)
        memory = buffer[len(header) :][: max(0, layout.zeros_offset - start)]
        if memory:
            try:
                self._read_memory(start, memory, sources)
            except MayWait as wait:
                raise MayWait(wait.source, len(header) + wait.done) from None
        zeros = buffer[len(header) + len(memory) :]
        if zeros:
            self._read_zeros(zeros)
        return len(buffer)

    def view(self, offset: int, length: int) -> memoryview | None:
        """`length` bytes at `offset`, where they lie here already: memory that was copied."""
        layout = self.layout
        if not layout.memory_offset <= offset <= layout.zeros_offset - length:
            return None
        return self.holder.view(offset - layout.memory_offset, length)

    def read_here(self, offset: int, buffer: memoryview) -> bool:
        """Fill `buffer`, all of it before the end of the file, where nobody has to be asked for it:
        of the header, or zeros.

        False: it was not filled, and others are to be asked.  EIO as in `read_into`.
        """
        layout = self.layout
        if offset + len(buffer) <= layout.memory_offset:
            is_coming = self._finishing is not None and not self._finishing.done()
            if is_coming and offset + len(buffer) > layout.notes_offset:
                return False
            self._read_header(offset, buffer)
            return True
        if layout.address(offset, len(buffer)) != ZEROS:
            return False
        self._read_zeros(buffer)
        return True

    def read_at_once(self, offset: int, buffer: memoryview) -> bool:
        """Fill `buffer`, all of it before the end of the file, from one piece of memory that is in
        the page tables now.  For a thread: it waits for mmap_lock of the process.

        False: nothing was read, or not all, and `read_into` is to be asked.  EIO as there.
        """
        address, memory = self.layout.address(offset, len(buffer)), self._memory
        if address is None or address == ZEROS or memory is None:
            return False
        return memory.read_at_once(address, buffer)

    def _read_header(self, offset: int, buffer: memoryview) -> None:
        try:
            self.layout.read_header(offset, buffer)
        except ProcessError as error:
            raise error.with_traceback(None) from None  # or it grows with every read

    def _read_zeros(self, buffer: memoryview) -> None:
        if not self.is_copied:
            self._check()  # known, but the core is no longer whole
        clear(buffer)

    def _read_memory(self, offset: int, buffer: memoryview, sources: Container[str] | None) -> None:
        memory = self._memory
        if (view := self.view(offset, len(buffer))) is not None:
            buffer[:] = view
            return
        if memory is None:
            self._check()  # it may have died
            raise ProcessError(Reason.LET_GO, self.pid)
        try:
            memory.read_ranges(*self.layout.memory(offset, len(buffer)), buffer, sources)
        except ProcessError:
            # It may have been copied, and let go, meanwhile.
            if (view := self.view(offset, len(buffer))) is None:
                raise
            buffer[:] = view

    # Its end.

    def drop(self) -> None:
        """Nobody is to read memory any more.  The header stays readable."""
        self.holder.drop()

    def close(self) -> None:
        """Free what was taken to read memory.  May take long."""
        self._memory = None
        self.holder.close()

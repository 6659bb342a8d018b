"""One core: maps offsets of the file to bytes.

The core has its header; it reads memory from the held process or from a copy; it makes zeros.
Any thread may call everything here.
"""

from collections.abc import Callable, Container, Mapping
from concurrent.futures import Future
from dataclasses import replace

from gcorefs import tuning
from gcorefs.elfcore.layout import Header, Layout
from gcorefs.elfcore.provenance import Provenance
from gcorefs.elfcore.segments import ZEROS
from gcorefs.hold.holder import Holder
from gcorefs.hold.store import Place
from gcorefs.plan import CorePlan
from gcorefs.process import readv
from gcorefs.process.errors import ProcessError, Reason, named
from gcorefs.process.memory import Memory
from gcorefs.process.page_providers import MayWait
from gcorefs.process.program import Program, program_of
from gcorefs.process.ranges import clear
from gcorefs.steps import Step

# Measured while a core is made.  A mapping: Vma, Segment and references to them, of which at most
# a third stays.  A piece of a mapping that holes divide: a few columns (elfcore/segments.py).
_BYTES_PER_MAPPING = 700
_BYTES_PER_PIECE = 80


class Core:
    """The core file of one stopped process, of `size` bytes."""

    def __init__(
        self,
        pid: int,
        plan: CorePlan,
        memory: Memory,
        holder: Holder,
        check: Callable[[], None],
        finishing: "Future[None] | None" = None,
    ) -> None:
        """`check` raises if the process does not stand still any more.

        `finishing`: completes when the rest of the header is made, if a part is made later.
        """
        self.pid = pid
        self.holder = holder
        self.layout: Layout = plan.layout
        self.provenance: Provenance = plan.provenance
        self._plan = plan
        self._memory: Memory | None = memory
        self._lost = memory.unreadable_pages
        self._check = check
        self._finishing = finishing
        self._program: Program | None = program_of(pid) if holder.is_copy else None

    # Properties.

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.layout.size

    @property
    def is_coming(self) -> bool:
        """True if the end of the header, from `layout.notes_offset` on, is still to be made."""
        return self._finishing is not None and not self._finishing.done()

    def plan(self, header: Header) -> CorePlan:
        """The plan of this core, for another process, with its header in another place."""
        return replace(self._plan, layout=self.layout.with_header(header))

    @property
    def header_memory(self) -> int:
        """The approximate bytes that the header and the layout take in our memory."""
        pieces = _BYTES_PER_PIECE * self.layout.phnum
        return self.layout.memory_offset + _BYTES_PER_MAPPING * self._plan.mappings + pieces

    @property
    def threads(self) -> int:
        """Threads of the process, including threads that are not in the core."""
        return self.provenance.stopped + len(self.provenance.others)

    @property
    def unresponsive_threads(self) -> int:
        """Threads that did not stop and whose registers are not all known."""
        return sum(not how.is_exact for how in self.provenance.others.values())

    @property
    def starved_threads(self) -> int:
        """Threads that did not stop because they got no CPU."""
        return len(self.provenance.no_cpu)

    @property
    def read_through(self) -> str:
        """The usual way to read private memory; some pages need another way (memory.py)."""
        is_denied = self._memory is not None and self._memory.is_readv_denied
        return "/proc/PID/mem" if is_denied else readv.way()

    @property
    def unreadable(self) -> int:
        """Pages that are zeros in the file because they cannot be read, as far as known: some
        show only at the read.  The kernel's own pages, always unreadable, are not counted.
        """
        return self._lost.count

    @property
    def unreadable_ranges(self) -> list[tuple[int, int]]:
        """Start and end of each run of unreadable pages."""
        return self._lost.ranges()

    # How its memory outlives the stop.

    @property
    def hold(self) -> Mapping[str, str]:
        """How the process should be held, and how it is held."""
        return self.holder.facts()

    @property
    def not_copied(self) -> str:
        """Why the process is held although the policy wants a copy; empty otherwise."""
        return self.holder.not_copied

    @property
    def is_copied(self) -> bool:
        """True if the memory stays readable after the process has been let go."""
        return self.holder.is_filled

    def fill(self) -> None:
        """Copy the memory, if the policy wants it and the memory can be read at once."""
        memory = self._memory
        if memory is not None:
            self.holder.fill(self.layout, memory, self.finish)
            tuning.now().reach(Step.COPIED, self.pid)

    def finish(self, timeout: float | None = None) -> None:
        """Block until the whole header is made.  EIO: it cannot be made any more."""
        if (finishing := self._finishing) is not None:
            finishing.result(timeout)

    def is_unchanged(self) -> bool:
        """True if the process, which runs again, still is the copied one: the same program, the
        same user, and not easier to trace.  ESRCH: it is gone.
        """
        memory = self._memory
        if memory is None:
            return False
        try:
            memory.check_pinned()
            return program_of(self.pid) == self._program
        except ProcessLookupError as error:
            raise ProcessError(Reason.GONE, self.pid) from error
        except OSError:  # it is in an execve(2), or /proc does not show it any more
            return False

    # Its bytes.

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; fewer only at the end of the file."""
        length = max(0, min(length, self.size - offset))
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(
        self, offset: int, buffer: memoryview, sources: Container[str] | None = None
    ) -> int:
        """Fill `buffer` from `offset` of the file; the count is short only at the end.

        EIO: the process died or was let go, and the bytes are its memory.  MayWait: the bytes up to
        a page are filled, and a source that is not in `sources` must supply that page (None: wait
        for every source).
        """
        tuning.now().reach(Step.READING_CORE, self.pid)
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
        """`length` bytes at `offset`, if they are memory that was copied; else None."""
        layout = self.layout
        if not layout.memory_offset <= offset <= layout.zeros_offset - length:
            return None
        return self.holder.view(offset - layout.memory_offset, length)

    def place(self, offset: int, length: int) -> Place:
        """The file that has the bytes from `offset` on, if they are memory that was copied to one:
        as many of `length` bytes, which are in the core, as lie together."""
        layout = self.layout
        if offset < layout.memory_offset:
            return Place(None, 0, min(length, layout.memory_offset - offset))
        if offset >= layout.zeros_offset:
            return Place(None, 0, length)
        length = min(length, layout.zeros_offset - offset)
        return self.holder.place(offset - layout.memory_offset, length)

    def read_here(self, offset: int, buffer: memoryview) -> bool:
        """Fill `buffer` if it needs no access to the process: with bytes of the header, or zeros.

        The range must end before the end of the file.  False: it was not filled; call another read
        function.  EIO as in `read_into`.
        """
        layout = self.layout
        if offset + len(buffer) <= layout.memory_offset:
            if self.is_coming and offset + len(buffer) > layout.notes_offset:
                return False
            self._read_header(offset, buffer)
            return True
        if layout.address(offset, len(buffer)) != ZEROS:
            return False
        self._read_zeros(buffer)
        return True

    def read_at_once(self, offset: int, buffer: memoryview) -> bool:
        """Fill `buffer` from one extent of memory that is copied, or is in the page tables now.

        The range must end before the end of the file.  Call this in a thread: it waits for
        mmap_lock of the process, or for a disk.  False: not all was read; call `read_into`.  EIO as
        there.
        """
        address = self.layout.address(offset, len(buffer))
        if address is None or address == ZEROS:
            return False
        return self._read_copied_or(
            offset, buffer, lambda memory: memory.read_at_once(address, buffer)
        )

    def _read_header(self, offset: int, buffer: memoryview) -> None:
        try:
            self.layout.read_header(offset, buffer)
        except ProcessError as error:
            raise error.with_traceback(None) from None  # else the traceback grows with every read

    def _read_zeros(self, buffer: memoryview) -> None:
        if not self.is_copied:
            self._check()  # zeros are known, but without its process the core is incomplete
        clear(buffer)

    def _read_memory(self, offset: int, buffer: memoryview, sources: Container[str] | None) -> None:
        def read(memory: Memory) -> bool:
            memory.read_ranges(*self.layout.memory(offset, len(buffer)), buffer, sources)
            return True

        self._read_copied_or(offset, buffer, read)

    def _read_copied_or(
        self, offset: int, buffer: memoryview, read: Callable[[Memory], bool]
    ) -> bool:
        """Fill `buffer` from the copy, or if there is none, `read` the process.  False: `read`
        says that not all was read."""
        if self._read_copied(offset, buffer):
            return True
        memory = self._memory
        if memory is None:
            self._check()  # raises DIED if the process died
            raise ProcessError(Reason.LET_GO, self.pid)
        try:
            return read(memory)
        except ProcessError:
            # Meanwhile the process may have been copied and let go.
            if not self._read_copied(offset, buffer):
                raise
            return True

    def _read_copied(self, offset: int, buffer: memoryview) -> bool:
        try:
            return self.holder.read_into(offset - self.layout.memory_offset, buffer)
        except ProcessError:
            raise
        except OSError as error:
            raise ProcessError(Reason.SPOOL, self.pid, named(error)) from error

    # The end.

    def close(self) -> None:
        """Read the process no more.  The header stays readable."""
        self._memory = None

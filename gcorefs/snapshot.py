"""One stop of one process and its file: take, read, close.

No FUSE and no event loop here, so that the command line and every test have the same core
without a mount.  All calls block; `let_go` and `close` may come from any thread, at any time.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime

from gcorefs import __version__
from gcorefs.assembly import assemble
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.provenance import Provenance
from gcorefs.elfcore.regsets import MACHINES
from gcorefs.elfcore.segments import ZEROS
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process import access, procfs, readv
from gcorefs.process.absent import Absent, MayWait
from gcorefs.process.access import Opener
from gcorefs.process.copy import Copy, NotCopied, Room
from gcorefs.process.copy_on_write import CopyOnWrite
from gcorefs.process.errors import ProcessError, Reason, named, told
from gcorefs.process.later import Postponed, Worker
from gcorefs.process.lost import Lost
from gcorefs.process.mark import is_marked
from gcorefs.process.memory import Memory
from gcorefs.process.pagemap import open_pagemap
from gcorefs.process.procfs import Process
from gcorefs.process.program import Program, program_of
from gcorefs.process.ranges import clear
from gcorefs.process.record import Record
from gcorefs.process.shared import Shared
from gcorefs.process.tracer import Tracer
from gcorefs.process.turns import LINE, Turn

TAKE_TIMEOUT = 20.0
"""Seconds, beyond its stop_timeout, that whoever takes a snapshot should wait for it.  /proc
may never answer, where a thread that does not stop holds a lock of the process."""

READ_TIMEOUT = 10.0
"""Seconds that whoever reads memory should wait for one read.  A page that userfaultfd(2) is
to bring never comes while its handler is stopped."""

# As seen while it is taken: Vma, Segment and what refers to them, of which a third or less stays;
# of a piece of a mapping that is divided by what was never populated, a few columns
# (elfcore/segments.py).
_BYTES_PER_MAPPING = 700
_BYTES_PER_PIECE = 80

_TIMES_AT_ONCE = 100

# Beyond what is populated: the file holds small holes as well (segments.py).
_SLACK_SHARE = 64
_SLACK_AT_LEAST = 1 << 20

CLOSE_TIMEOUT = 5.0
"""Seconds that whoever closes a snapshot should wait until nobody is traced any more."""


def find(pid: int) -> Process:
    """The process `pid`, if it is one that can have a core at all.  ESRCH, EINVAL, EACCES."""
    with told(pid, Reason.GONE):
        stat = procfs.stat(pid)
        leader = int(procfs.status(pid)["Tgid"])
    if leader != pid:
        raise ProcessError(Reason.GONE, pid, f"it is a thread of process {leader}")
    if stat.is_kernel_thread:
        raise ProcessError(Reason.KERNEL_THREAD, pid)
    return Process(pid, stat.start_time)


def refuse_early(process: Process, opener: Opener | None) -> None:
    """Raise what can be known before anything is stopped.

    EDEADLK: ourselves, the opener's own process, another gcorefs; ESRCH: gone; EBUSY: another
    tracer has it, or it writes its core; EACCES: the kernel says no to `opener` (None: it will
    judge ourselves, at the seize).
    """
    pid = process.pid
    if pid == os.getpid():
        raise ProcessError(Reason.OURSELVES, pid)
    if opener is not None and pid == opener.pid:
        raise ProcessError(Reason.CALLER, pid)
    with told(pid, Reason.GONE):
        if procfs.stat(pid).start_time != process.start_time:
            raise ProcessError(Reason.GONE, pid)
        holder = procfs.ask_live_thread(pid, lambda tid: procfs.tracer(pid, tid))
        if opener is not None:
            access.check(opener, pid)
        if procfs.ask_live_thread(pid, is_marked):
            raise ProcessError(Reason.SERVER, pid)
        try:
            is_32_bit = procfs.ask_live_thread(pid, procfs.is_32_bit)
        except PermissionError as error:  # whom it is not shown to may not trace either
            raise ProcessError(Reason.DENIED, pid, named(error)) from error
        if procfs.is_dumping_core(pid):
            raise ProcessError(Reason.DUMPING, pid)
    if (os.uname().machine, is_32_bit) not in MACHINES:
        raise ProcessError(Reason.FOREIGN, pid, os.uname().machine)
    if holder and holder != os.getpid():  # ours: a stop that the opener is about to join
        raise ProcessError(Reason.TRACED, pid, f"TracerPid {holder}")


class Snapshot:
    """A process that stands still from `take` to `let_go`, as a file of `size` bytes."""

    def __init__(
        self,
        process: Process,
        opener: Opener | None = None,
        policy: Policy = DEFAULT,
        on_end: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> None:
        """`room`: for a copy of the memory, so that the process need not be held."""
        self.process = process
        self.opener = opener
        self.records: Sequence[Record] = ()
        """What was recorded of each thread, as found, in the order of the notes."""
        self.provenance: Provenance | None = None
        self.comm = b""
        """The name of its program, once it is stopped."""
        self.ready_seconds = 0.0
        """From the first interrupt until the header was built."""
        self.not_copied = ""
        """Why it is held all the same, where there was to be a copy."""
        self._policy = policy
        self._tracer = Tracer(process, policy.stop_timeout, on_end, policy.xstate)
        self._layout: Layout | None = None
        self._mappings = 0
        self._memory: Memory | None = None
        self._lost = Lost()
        self._room = room
        self._copy: Copy | None = None  # to be filled
        self._kept: Copy | None = None  # filled, in place of the memory
        self._past: Copy | None = None  # let go, until `close` frees it
        self.was_copied = False
        """The memory was copied, and the process let go."""
        self._finishing: Future[None] | None = None  # what was left of the header for later
        self._program: Program | None = None  # where there is to be a copy
        self._lock = threading.Lock()
        self._let_go = False

    def take(self) -> None:
        """Stop every thread, record it, and build the header.  At most once.

        ProcessError, with everything let go, where the core cannot be had.
        """
        try:
            with LINE.begun():
                self._take()
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        process = self.process
        refuse_early(process, self.opener)
        with told(process.pid, Reason.DIED):
            before = procfs.stat(process.pid)
            self.comm = before.comm
            self._make_room()
            with self._lock:
                if self._let_go:
                    raise ProcessError(Reason.LET_GO, process.pid)
                self._tracer.start()
            recorded = self._tracer.wait()
            stop_seconds = time.monotonic() - self._tracer.stopped_at
            late = self._unresponsive(recorded)
            tid = next((record.tid for record in recorded if record.general), recorded[0].tid)
            # Opened before the door is asked again: should a thread that did not stop exec
            # between the two, then this is the old program's memory, and gone.
            memory = Memory(process.pid, tid, self._check, self._lost)
            memory.only_pinned = bool(late)
            if procfs.stat(process.pid).start_time != process.start_time:
                raise ProcessError(Reason.GONE, process.pid)
            if self.opener is not None:
                access.check(self.opener, process.pid)
            pagemap = open_pagemap(tid)
            if procfs.has_few_runs(tid):
                pagemap.look_ahead()
            vmas = procfs.mappings(tid)
            others = [vma for vma in vmas if not vma.kind.is_plain]
            self._lost.no_loss = [range(vma.start, vma.end) for vma in others if vma.is_special]
            shared = memory.shared = Shared(tid, others)
            memory.absent = Absent(tid, others, pagemap)
            memory.pagemap = pagemap
            memory.copy_on_write = CopyOnWrite(vmas, pagemap)
            assembly = assemble(
                process,
                tid,
                self._tracer.machine,
                before,
                recorded,
                self._now_or_later([record.tid for record in recorded], is_now=bool(late)),
                self._policy,
                self._provenance(stop_seconds),
                vmas,
                memory,
                pagemap,
                shared,
                self._hold,
            )
            if self._room is not None:
                self._program = program_of(process.pid)
            memory.check_pinned()
        with self._lock:  # or what is closed meanwhile has memory again
            self._check()
            self._layout = assembly.layout
            self._mappings = len(vmas)
            self._memory = memory
        self.provenance = assembly.provenance
        self.records = recorded
        self.ready_seconds = time.monotonic() - self._tracer.stopped_at
        if assembly.later is not None:
            with contextlib.closing(Worker("gcorefs-notes")) as worker:
                self._finishing = worker.submit(_finish, assembly.later, LINE.mine)

    def _unresponsive(self, recorded: Sequence[Record]) -> Sequence[int]:
        """Threads that did not stop.  EBUSY where the policy rules that out."""
        pid, late = self.process.pid, [each for each in recorded if not each.general]
        if late and self._policy.unresponsive == "fail":
            starved = [each.tid for each in late if each.is_starved]
            which = f"thread {starved[0]} gets no CPU" if starved else f"thread {late[0].tid}"
            raise ProcessError(Reason.UNRESPONSIVE, pid, which)
        if len(late) == len(recorded) and self._policy.unresponsive == "omit":
            raise ProcessError(Reason.UNRESPONSIVE, pid, "none of its threads stopped")
        return [each.tid for each in late]

    def _times(self, tids: Sequence[int]) -> Sequence[tuple[int, ...]]:
        """What these threads have used, in ticks.  EIO: they do not stand any more."""
        found: list[tuple[int, ...]] = []
        with told(self.process.pid, Reason.DIED):
            # A few at a time, and no more once nobody is to read them.
            for start in range(0, len(tids), _TIMES_AT_ONCE):
                LINE.give_way()
                some = tids[start : start + _TIMES_AT_ONCE]
                found += procfs.task_times(self.process.pid, some)
                self._check()
        return found

    def _now_or_later(
        self, tids: Sequence[int], is_now: bool
    ) -> Callable[[Sequence[int]], Sequence[tuple[int, ...]]]:
        """The times of any of these threads, asked `is_now` where one did not stop and may end."""
        if not is_now:
            return self._times
        known = dict(zip(tids, self._times(tids), strict=True))
        return lambda some: [known[tid] for tid in some]

    def _make_room(self) -> None:
        """For about as much as the core will have."""
        if self._room is None:
            return
        copy = self._copy = Copy(self._room)
        status = procfs.ask_live_thread(
            self.process.pid, lambda tid: procfs.status(self.process.pid, tid)
        )
        kinds = ("RssAnon", "RssShmem", "VmSwap")  # no pages of files, but for a few
        populated = sum(int(status.get(kind, b"0").split()[0]) for kind in kinds) * 1024
        with contextlib.suppress(NotCopied):
            copy.prepare(populated + populated // _SLACK_SHARE + _SLACK_AT_LEAST)

    def _hold(self, size: int) -> Mapping[str, str]:
        """What the note says of how the process is held, whose file has `size` bytes of memory."""
        copy = self._copy
        if copy is None:
            return {"hold": "stop"}
        try:
            copy.fit(size)
        except NotCopied as error:
            self.give_up_copy(str(error))
        return self.hold

    @property
    def hold(self) -> Mapping[str, str]:
        """What was asked for, and what came of it."""
        if self._room is None:
            return {"hold": "stop"}
        if self.not_copied:
            return {"hold": "copy", "held": "stop", "held_why": self.not_copied}
        return {"hold": "copy", "held": "copy"}

    def give_up_copy(self, why: str) -> None:
        """Hold the process instead, and free the room for what was to be copied."""
        self.not_copied = why
        with self._lock:
            copy = self._take_copy()
        if copy is not None:
            copy.discard()

    def copy(self) -> None:
        """Copy the memory, where that is wanted, and let the process run on.

        Where it cannot be had at once the process is held: `not_copied` says why.  Reads are
        answered all the while.  ProcessError: it died, or was let go.
        """
        with self._lock:
            copy, memory = self._take_copy(), self._memory
        if copy is None or memory is None:
            return
        try:
            copy.fill(self.layout, memory)
            if (finishing := self._finishing) is not None:
                finishing.result()
        except BaseException as error:
            copy.discard()
            if isinstance(error, NotCopied) or _is_no_end(error):
                self.not_copied = str(error)
                return
            raise
        with self._lock:
            if not self._let_go:
                self._kept = copy
                self.was_copied = True
        self._tracer.release()

    def _take_copy(self) -> Copy | None:
        """What is to be filled, which is the caller's from here on."""
        copy, self._copy = self._copy, None
        return copy

    def wait_untraced(self) -> None:
        """Block until a process that was copied runs on, and no thread of it is traced."""
        self._tracer.join()

    @property
    def is_copied(self) -> bool:
        """True where the process has been let go, and its memory is still to be had."""
        return self._kept is not None

    def is_unchanged(self) -> bool:
        """True where the process, which runs by now, is still what was copied: the same program,
        of the same user, and no easier to trace.  ESRCH: it is gone.
        """
        memory = self._memory
        if memory is None:
            return False
        try:
            memory.check_pinned()
            return program_of(self.process.pid) == self._program
        except ProcessLookupError as error:
            raise ProcessError(Reason.GONE, self.process.pid) from error
        except OSError:  # it is becoming another, or nobody may see it any more
            return False

    def view(self, offset: int, length: int) -> memoryview | None:
        """`length` bytes at `offset`, where they lie here already: memory that was copied."""
        kept = self._kept
        if kept is None:
            return None
        layout = self.layout
        if not layout.memory_offset <= offset <= layout.zeros_offset - length:
            return None
        return kept.view(offset - layout.memory_offset, offset - layout.memory_offset + length)

    def _provenance(self, stop_seconds: float) -> Provenance:
        stopped_at = time.time() - (time.monotonic() - self._tracer.stopped_at)
        return Provenance(
            version=__version__,
            host=os.uname().nodename,
            pid=self.process.pid,
            stopped_at=datetime.fromtimestamp(stopped_at, UTC).isoformat(timespec="milliseconds"),
            stop_milliseconds=stop_seconds * 1e3,
            policy=self._policy.facts(),
            stopped=0,
            others={},
            xstate=self._tracer.xstate,
        )

    def _check(self) -> None:
        """Raise where memory is no longer that of the stop.  EIO."""
        if self._tracer.dead:
            raise ProcessError(Reason.DIED, self.process.pid)
        if self._let_go or self._tracer.is_over:
            raise ProcessError(Reason.LET_GO, self.process.pid)

    @property
    def layout(self) -> Layout:
        if self._layout is None:
            raise ProcessError(Reason.LET_GO, self.process.pid)
        return self._layout

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.layout.size

    @property
    def threads(self) -> int:
        """Threads of the process, in the core or left out of it; 0 until they are known."""
        return self.provenance.stopped + self.unresponsive_threads if self.provenance else 0

    @property
    def unresponsive_threads(self) -> int:
        """Those that did not stop."""
        return len(self.provenance.others) if self.provenance else 0

    @property
    def starved_threads(self) -> int:
        """Of these, those that got no CPU to do so."""
        return len(self.provenance.no_cpu) if self.provenance else 0

    @property
    def late(self) -> Sequence[int]:
        """Threads that are traced still when all others have been let go: they were interrupted,
        have not stopped yet, and are let go when they have."""
        return self._tracer.late

    def wait_late(self, timeout: float) -> bool:
        """Block until there is none in `late`, or for `timeout` seconds: then False."""
        return self._tracer.join_late(timeout)

    @property
    def header_memory(self) -> int:
        """Bytes, about, that the header and the way into memory take here."""
        layout = self.layout
        pieces = _BYTES_PER_PIECE * layout.phnum
        return layout.memory_offset + _BYTES_PER_MAPPING * self._mappings + pieces

    @property
    def is_dead(self) -> bool:
        """True once the process has died while it was held."""
        return self._tracer.dead and not self.is_copied

    @property
    def read_through(self) -> str:
        """How its private memory is read, but for pages that have to be read otherwise."""
        is_denied = self._memory is not None and self._memory.is_readv_denied
        return "/proc/PID/mem" if is_denied or readv.is_denied() else "process_vm_readv(2)"

    @property
    def stopped_seconds(self) -> float:
        """How long the process stood still, or has stood still until now."""
        if not self._tracer.stopped_at:
            return 0.0
        return (self._tracer.released_at or time.monotonic()) - self._tracer.stopped_at

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
        if self._kept is None:
            self._check()  # known, but the core is no longer whole
        clear(buffer)

    def _read_memory(self, offset: int, buffer: memoryview, sources: Container[str] | None) -> None:
        memory = self._memory
        if (view := self.view(offset, len(buffer))) is not None:
            buffer[:] = view
            return
        if memory is None:
            self._check()  # it may have died
            raise ProcessError(Reason.LET_GO, self.process.pid)
        try:
            memory.read_ranges(*self.layout.memory(offset, len(buffer)), buffer, sources)
        except ProcessError:
            # It may have been copied, and let go, meanwhile.
            if (view := self.view(offset, len(buffer))) is None:
                raise
            buffer[:] = view

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer only at the end of the file."""
        length = max(0, min(length, self.size - offset))
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def let_go(self) -> None:
        """Let every thread run on.  What was made of the header stays readable; memory, and what
        was still to be made, are EIO from here on."""
        with self._lock:
            self._let_go = True
            # Not freed here: that takes long, and this may be the event loop.
            self._past, self._kept = self._kept or self._past, None
        self._tracer.release()

    def forget(self) -> None:
        """Drop what was taken, where nobody is to read it."""
        self._layout = None
        self._memory = None
        self._copy = None
        self._finishing = None
        self.records = ()

    def close(self) -> None:
        """Let go, and wait until nobody is traced any more but those in `late`."""
        self.let_go()
        self._memory = None
        self._copy = None
        self._past = None
        self._tracer.join()


def _is_no_end(error: BaseException) -> bool:
    """True for what keeps memory from being copied, though the process is still held."""
    is_of_process = isinstance(error, ProcessError) and error.reason is not Reason.NOT_SHOWN
    return isinstance(error, OSError) and not is_of_process


def _finish(later: Postponed, turn: Turn | None) -> None:
    with LINE.part_of(turn):
        later.do()

"""The live part of each thread's stack: from the red zone below the stack pointer to the base.

Nothing outside the process knows where a stack ends.  The kernel may have joined its mapping with
the one behind it, and mlock(2) or madvise(2) may have divided it.  What libc keeps for a thread
lies at the base of its stack (glibc: nptl/allocatestack.c), so the thread pointer tells.  A runtime
that has its stacks on a heap keeps their bounds: Go has them in the first two words of each g,
whose address is in a register or right below the thread pointer (runtime/runtime2.go, stack).

A thread may stand on another stack than its own: an alternate one (sigaltstack(2)), or that of a
coroutine.  The live part of its own stack then begins where the frame of the signal says, or at the
lowest address in it that a register or a word on the other stack holds.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gcorefs.arch.machine import Machine, RegisterKind, RegisterSets
from gcorefs.elfcore.elf import CLASSES, PF_R, PF_W, PF_X, page_up
from gcorefs.elfcore.selection import Range
from gcorefs.elfcore.vma import Vma
from gcorefs.process.peek import Peek

_MAIN = b"[stack]"

_MOST_SEARCHED = 32 << 20
"""Bytes of stacks other than their own that are searched, of all threads together: a process may
have any number of threads on stacks of any size."""
_ALWAYS_SEARCHED = 16 << 10
"""The same of each thread, after that.  The frame of a signal is near the stack pointer."""


@dataclass(frozen=True, slots=True)
class ThreadOnStack:
    """What a thread's registers say about its stacks.  Addresses."""

    tid: int
    stack_pointer: int
    thread_pointer: int
    """0 if it is not known."""
    registers: tuple[int, ...]
    """The general registers; a stack pointer of 0 and none of them if they are not known."""

    @classmethod
    def of(cls, tid: int, machine: Machine, sets: RegisterSets) -> "ThreadOnStack":
        if RegisterKind.GENERAL not in sets:
            return cls(tid, 0, 0, ())
        words = tuple(array(CLASSES[machine.word_size].word, sets[RegisterKind.GENERAL]))
        stack_pointer = words[machine.general.index(machine.stack_pointer)]
        return cls(tid, stack_pointer, machine.thread_area.pointer(sets), words)


@dataclass(frozen=True, slots=True)
class Stacks:
    """The parts of stacks that a core has."""

    ranges: Sequence[Range] = ()
    cut: Sequence[int] = ()
    """The threads of whose stacks a part is missing, because it is longer than the limit."""


class StackFinder:
    """Finds the stacks of one process."""

    def __init__(self, machine: Machine, peek: Peek, leader: int, limit: int) -> None:
        """`limit`: the most bytes of the stacks of one thread."""
        self._machine = machine
        self._peek = peek
        self._leader = leader
        self._limit = limit
        self._left_to_search = _MOST_SEARCHED

    def find(self, threads: Sequence[ThreadOnStack]) -> Stacks:
        ranges: list[Range] = []
        cut: list[int] = []
        for thread in threads:
            own = list(self._of(thread))
            left = self._limit
            for start, end in own:
                if left > 0:
                    ranges.append((start, min(end, start + left)))
                left -= end - start
            if left < 0:
                cut.append(thread.tid)
        return Stacks(ranges, cut)

    def _of(self, thread: ThreadOnStack) -> Iterator[Range]:
        """The stack on which a thread stands, and then its own one if that is another."""
        here = self._live(thread.stack_pointer, thread)
        if here is None:
            return
        start, end = here
        own = self._own(thread)
        if own is None or start < own.end <= end or own.start <= start < own.end:
            yield here
            yield from self._frame(thread, here)
            return
        on_stack = self._searched(start, end)
        size = self._machine.word_size
        words = array(self._peek.form.word, on_stack[: len(on_stack) // size * size])
        began, end_here = self._in_frame(words, thread.stack_pointer, own)
        yield start, end_here or end
        yield from self._frame(thread, here)
        inside = [word for word in (*thread.registers, *words) if own.start <= word < own.end]
        # Not what libc keeps of the thread: the registers and the stack point there too.
        inside = [word for word in inside if not own.start <= thread.thread_pointer <= word]
        began = began or min(inside, default=0)
        if began and (rest := self._live(began, thread)) is not None:
            yield rest

    def _searched(self, start: int, end: int) -> bytes:
        """The beginning of a stack, to look there for what leads to the thread's own."""
        most = max(_ALWAYS_SEARCHED, min(self._limit, self._left_to_search))
        end = min(end, start + most)
        self._left_to_search -= end - start
        (found,) = self._peek.read_ranges([(start, end)])
        return found

    def _in_frame(self, words: "array[int]", stack_pointer: int, own: Vma) -> tuple[int, int]:
        """The stack pointer in `own` that the frame of a signal on an alternate stack has, and the
        end of that stack; zeros if there is no such frame.  The frame names the stack on which it
        lies (sigaltstack(2))."""
        here = self._peek.vma(stack_pointer)
        for at in range(len(words) - self._machine.stack_in_frame):
            base, size = words[at], words[at + 2]
            is_ours = base <= stack_pointer < base + size
            if is_ours and here is not None and here.start <= base and base + size <= here.end:
                found = words[at + self._machine.stack_in_frame]
                if own.start <= found < own.end:
                    return found, base + size
        return 0, 0

    def _frame(self, thread: ThreadOnStack, here: Range) -> Iterator[Range]:
        """The stack of a coroutine into which the frame pointer points, if a frame is there: the
        frame pointer of its caller, and an address in code."""
        pointer = thread.registers[self._machine.general.index(self._machine.frame_pointer)]
        vma = self._peek.vma(pointer)
        if here[0] <= pointer < here[1] or vma is None or not _is_stack(vma):
            return
        caller, back = self._peek.words(pointer, 2) or (0, 0)
        code = self._peek.vma(back)
        if not pointer < caller < vma.end or code is None or not code.flags & PF_X:
            return
        if (found := self._live(pointer, thread)) is not None:
            yield found

    def _own(self, thread: ThreadOnStack) -> Vma | None:
        """The mapping that holds the base of a thread's own stack."""
        if thread.tid == self._leader:
            return self._peek.named(_MAIN)
        found = self._peek.vma(thread.thread_pointer)
        return found if found is not None and _is_stack(found) else None

    def _live(self, pointer: int, thread: ThreadOnStack) -> Range | None:
        """From the red zone below `pointer` to the base of that stack."""
        vma = self._peek.vma(pointer) or self._peek.vma(pointer - 1)
        if vma is None or not _is_stack(vma):
            return None
        start = max(vma.start, pointer - self._machine.red_zone)
        last = self._last(vma, thread.thread_pointer)
        if pointer <= thread.thread_pointer < last.end:
            area = thread.thread_pointer + self._machine.thread_area.above
            return start, min(last.end, page_up(area))
        if last.name == _MAIN:
            return start, last.end
        return start, self._told_end(pointer, thread, last.end)

    def _told_end(self, pointer: int, thread: ThreadOnStack, end: int) -> int:
        """Where a runtime says that the stack around `pointer` ends, before `end`."""
        kept = self._peek.words(thread.thread_pointer - self._machine.word_size, 1)
        for address in (*thread.registers, *kept):
            low, high = self._peek.words(address, 2) or (0, 0)
            if low <= pointer < high <= end:
                # The unwinder of elfutils reads on to the words behind the first frame.
                return min(end, high + 2 * self._machine.word_size)
        return end

    def _last(self, vma: Vma, thread_pointer: int) -> Vma:
        """The mapping with the base of a stack that `vma` is a part of: the one with the thread
        pointer, or [stack], if there is nothing but memory of that kind between them."""
        at: Vma | None = vma
        while at is not None and _is_stack(at) and at.end - vma.start <= self._limit + vma.size:
            if at.start <= thread_pointer < at.end or at.name == _MAIN:
                return at
            at = self._peek.behind(at)
        return vma


def thread_areas(machine: Machine, peek: Peek, threads: Sequence[ThreadOnStack]) -> Iterator[Range]:
    """What libc keeps of each thread, and its dynamic thread vector: libthread_db reads both."""
    area = machine.thread_area
    word = machine.word_size
    pointers = [t.thread_pointer for t in threads if peek.vma(t.thread_pointer) is not None]
    fields = [(at + area.dtv, at + area.dtv + word) for at in pointers]
    for at, field in zip(pointers, peek.read_ranges(fields), strict=True):
        yield at - area.below, at + area.above
        if (vector := int.from_bytes(field, "little")) and peek.vma(vector) is not None:
            # One entry before the vector has its length (glibc: sysdeps/generic/dl-dtv.h).
            yield vector - 2 * word, vector + _MOST_ENTRIES * 2 * word


_MOST_ENTRIES = 64


def _is_stack(vma: Vma) -> bool:
    """True if a stack may lie there."""
    return vma.flags & (PF_R | PF_W) == PF_R | PF_W and not vma.is_special

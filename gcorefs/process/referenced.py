"""referenced=: the memory at the addresses that registers and stacks hold.

Only whole pages are taken, and each page once.  What files hold is not taken: code, and data that
was never written.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.selection import MOST_REFERENCED, Range
from gcorefs.elfcore.vma import Vma
from gcorefs.process.peek import Peek
from gcorefs.process.stacks import ThreadOnStack

_AT_ONCE = 4 << 20
"""Bytes of stacks that are read at one time."""
_BEFORE = 64
"""Bytes before an address: what malloc(3) keeps of a block, and the head of a C++ object."""


def words_on_stacks(peek: Peek, stacks: Sequence[Range]) -> Iterator["array[int]"]:
    """The words of each range, in pieces."""
    size = peek.form.word_size
    aligned = [(-(-start // size) * size, end) for start, end in stacks]
    for some in _in_pieces(aligned):
        for data in peek.read_ranges(some):
            yield array(peek.form.word, data[: len(data) // size * size])


def _in_pieces(ranges: Sequence[Range]) -> Iterator[Sequence[Range]]:
    """The ranges in groups of about _AT_ONCE bytes: a policy may allow stacks of any size, and
    there may be ten thousand."""
    some: list[Range] = []
    size = 0
    for low, high in ranges:
        for start in range(low, high, _AT_ONCE):
            some.append((start, min(high, start + _AT_ONCE)))
            size += some[-1][1] - start
            if size >= _AT_ONCE:
                yield some
                some, size = [], 0
    yield some


def referenced_ranges(
    peek: Peek, threads: Sequence[ThreadOnStack], stacks: Sequence[Range], size: int
) -> list[Range]:
    """`size` bytes at each address, those of registers first, MOST_REFERENCED in all."""
    pages: dict[int, None] = {}  # in the order in which they are found
    for page in _found(peek, threads, stacks, min(size, MOST_REFERENCED)):
        pages[page] = None
        if len(pages) == MOST_REFERENCED // PAGE_SIZE:
            break
    return [(page * PAGE_SIZE, (page + 1) * PAGE_SIZE) for page in pages]


def _found(
    peek: Peek, threads: Sequence[ThreadOnStack], stacks: Sequence[Range], size: int
) -> Iterator[int]:
    """The numbers of the pages of data, some of them more than once."""
    for words in chain((thread.registers for thread in threads), words_on_stacks(peek, stacks)):
        for low, high in _around(words, size):
            for vma in peek.overlaps(low, high):
                if _is_data(vma):
                    first, end = max(low, vma.start), min(high, vma.end)
                    yield from range(first // PAGE_SIZE, -(-end // PAGE_SIZE))


def _around(words: Iterable[int], size: int) -> Iterator[Range]:
    """The memory at these addresses, in order.  What overlaps is one range: a million words may
    lead into the same memory."""
    low = high = 0
    for block in sorted({word // _BEFORE for word in words}):
        start = max(0, (block - 1) * _BEFORE)
        if start > high:
            yield low, high
            low = start
        high = block * _BEFORE + size
    yield low, high


def _is_data(vma: Vma) -> bool:
    """True for memory that no file has, or that the process has written."""
    return not vma.is_special and (not vma.has_file or vma.kind.is_shared or vma.is_written)

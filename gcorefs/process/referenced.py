"""referenced=: the memory at the addresses that registers and stacks hold.

Only whole pages are taken, and each page once.  What files hold is not taken: code, and data that
was never written.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence

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
    for thread in threads:
        pages |= dict.fromkeys(_pages(thread.registers, size))
    for words in words_on_stacks(peek, stacks):
        pages |= dict.fromkeys(_pages(words, size))
    found: list[Range] = []
    left = MOST_REFERENCED // PAGE_SIZE
    for page in pages:
        start = page * PAGE_SIZE
        vma = peek.vma(start)
        if vma is not None and _is_data(vma):
            if not left:
                break
            left -= 1
            found.append((start, start + PAGE_SIZE))
    return found


def _pages(words: Iterable[int], size: int) -> Iterator[int]:
    """The numbers of the pages at these addresses."""
    blocks = {word // _BEFORE for word in words}
    for block in sorted(blocks):
        address = block * _BEFORE
        yield from range(max(0, address - _BEFORE) // PAGE_SIZE, -(-(address + size) // PAGE_SIZE))


def _is_data(vma: Vma) -> bool:
    """True for memory that no file has, or that the process has written."""
    return not vma.is_special and (not vma.has_file or vma.kind.is_shared or vma.is_written)

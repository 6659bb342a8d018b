"""The address space of a core: what became of the bytes of each mapping.

A mapping may be many program headers in a row (segments.py), and a file may be many mappings.
This module joins them again.  If there are too many rows, it sums up the small ones: every byte
stays in the sums.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gcorefs.elfcore.core_bytes import Load
from gcorefs.elfcore.corefile import Core
from gcorefs.elfcore.provenance import from_text


@dataclass(slots=True)
class Row:
    """One mapping, or several together.  Sizes in bytes."""

    start: int
    end: int
    name: str | bytes = ""
    """The path of a file as bytes; [heap] and the like as text."""
    flags: int | None = None
    """PF_R, PF_W and PF_X; None if the mappings differ in them."""
    mappings: int = 1
    in_file: int = 0
    zeros: int = 0
    """Bytes that were never populated and that the area of zeros stands for."""
    left_out: int = 0
    unreadable: int = 0
    """Bytes that are zeros because they could not be read.  `in_file` counts most of them too."""
    is_rest: bool = False
    """The row sums up mappings that are too small for a row of their own."""

    @property
    def size(self) -> int:
        return self.in_file + self.zeros + self.left_out

    def add(self, other: "Row") -> None:
        """Join `other`, which follows this row."""
        self.end = other.end
        if other.flags != self.flags:
            self.flags = None if self.mappings else other.flags
        self.mappings += other.mappings
        self.in_file += other.in_file
        self.zeros += other.zeros
        self.left_out += other.left_out
        self.unreadable += other.unreadable


def mappings(core: Core) -> list[Row]:
    """One row for each mapping, in address order.

    Two adjacent mappings with the same name and permissions become one row if zeros are at their
    common boundary: nothing in the core shows that boundary.
    """
    facts = core.facts
    area = 0 if facts is None else facts["zeros"]["area"]
    zeros_offset = core.end - area if area else core.end
    starts = [start for start, _, _ in core.files]
    borders = {*starts, *(end for _, end, _ in core.files), *core.names}
    rows: list[Row] = []
    before: Load | None = None
    was_zero = False
    for load in core.loads:
        vaddr, memsz, filesz, offset, flags = load
        is_zero = offset >= zeros_offset and filesz > 0
        if (
            before is None
            or vaddr in borders
            or not (is_zero or (was_zero and filesz))  # only zeros divide a mapping
            or before.vaddr + before.memsz != vaddr
            or before.flags != flags
            or before.filesz != before.memsz  # memory that the core lacks ends a mapping
        ):
            name = core.names.get(vaddr) or _path(core, starts, vaddr)
            rows.append(Row(vaddr, vaddr, name, flags))
        row = rows[-1]
        row.end = vaddr + memsz
        row.left_out += memsz - filesz
        if is_zero:
            row.zeros += filesz
        else:
            row.in_file += filesz
        before, was_zero = load, is_zero
    if facts is not None:
        _mark(rows, from_text(facts["unreadable"]))
    return rows


def _path(core: Core, starts: Sequence[int], address: int) -> bytes:
    index = bisect_right(starts, address) - 1
    if index < 0:
        return b""
    _, end, path = core.files[index]
    return path if address < end else b""


def _mark(rows: Sequence[Row], ranges: Iterable[tuple[int, int]]) -> None:
    """Count the unreadable bytes of each row."""
    ends = [row.end for row in rows]
    for start, end in ranges:
        index = bisect_right(ends, start)
        while index < len(rows) and rows[index].start < end:
            row = rows[index]
            row.unreadable += min(end, row.end) - max(start, row.start)
            index += 1


def total(rows: Iterable[Row]) -> Row:
    """The sum of all rows."""
    whole = Row(0, 0, mappings=0)
    for row in rows:
        whole.add(row)
    return whole


def disagreement(core: Core, whole: Row) -> str:
    """One line if the byte counts of the GCOREFS note and the program headers differ; else ""."""
    if core.facts is None:
        return ""
    counted, shared = core.facts["bytes"], core.facts["zeros"]["shared"]
    for name, size, expected in (
        ("in the file", whole.in_file, counted["recorded"] + counted["zeros"] - shared),
        ("zeros", whole.zeros, shared),
        ("left out", whole.left_out, counted["left_out"]),
    ):
        if size != expected:
            return f"the GCOREFS note counts {expected} bytes {name}, the program headers {size}"
    return ""


def by_file(rows: Iterable[Row]) -> list[Row]:
    """Join consecutive rows of the same file into one row."""
    found: list[Row] = []
    is_copy = False  # the last row is a copy: the caller's row must not change
    for row in rows:
        if found and row.name and row.name == found[-1].name and isinstance(row.name, bytes):
            if not is_copy:
                found[-1] = replace(found[-1])
            found[-1].add(row)
            is_copy = True
        else:
            found.append(row)
            is_copy = False
    return found


def largest(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` rows, in the same order: the rows with the most bytes in the file, and one
    sum for each run of rows between them."""
    if len(rows) <= most:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda n: (rows[n].in_file, rows[n].size), reverse=True)
    count = most
    while count and _count(sorted(order[:count]), len(rows)) > most:
        count -= 1
    return list(_shortened(rows, sorted(order[:count])))


def _gaps(kept: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """Start and end of the runs before, between and behind the `kept` indexes, of `count`."""
    return zip([0, *(index + 1 for index in kept)], [*kept, count], strict=True)


def _count(kept: Sequence[int], count: int) -> int:
    return len(kept) + sum(start < end for start, end in _gaps(kept, count))


def _shortened(rows: Sequence[Row], kept: Sequence[int]) -> Iterator[Row]:
    for start, end in _gaps(kept, len(rows)):
        if end - start > 1:
            rest = total(rows[start:end])
            rest.start, rest.is_rest = rows[start].start, True
            yield rest
        elif end > start:
            yield rows[start]
        if end < len(rows):
            yield rows[end]

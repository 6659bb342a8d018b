"""When the page tables of a process are walked to find its holes: before the stop, beside other
work, or only where somebody asks.

A walk takes 2 to 3 ms for each populated gibibyte.  smaps walks too, and counts the pages of each
mapping, so a mapping without holes needs no other walk.  BPF counts no pages, so all memory has to
be walked.  If the page tables are nearly full, most of that happens while the process still runs.
In the stop only what was not populated is walked again, and that is quick, because page tables are
missing there.  If they are hardly filled, all of them would have to be walked again.

A page may have been given back in between (MADV_DONTNEED).  It counts as populated, and the core
has the zeros that the process itself sees there.  So that is true, and costs the process no more
than an entry in a page table.
"""

import contextlib
from array import array
from dataclasses import dataclass

from gcorefs.arch import HOST
from gcorefs.elfcore.columns import Column
from gcorefs.kernel.proc import address_space
from gcorefs.kernel.proc.address_space import PageTables
from gcorefs.process.pagemap import Pagemap, open_pagemap
from gcorefs.process.runs import size_of

_LONG = 1 << 20
"""Bytes.  To walk a shorter run again takes no longer than one more call."""

_GIVEN_BACK = 1 / 64
"""If the process has less memory by this part, a new walk is better."""

_MUCH = 64 << 10
"""KiB of memory for which a walk takes as long as the start of a thread."""

_AS_MANY = 8 << 10
"""KiB of page tables, of 4 GiB, for which a walk takes 10 ms: as long as 3,000 mappings."""


@dataclass(frozen=True, slots=True)
class PopulatedBefore:
    """The long runs of pages that were populated before the stop, in order."""

    starts: Column
    ends: Column
    resident: int
    """KiB of memory that the process had."""


def walk_before_stop(pid: int) -> PopulatedBefore | None:
    """For a process that runs.  None if that is not worth its while, or not possible."""
    with contextlib.suppress(OSError):  # what is wrong with it, the stop will tell
        tables = address_space.page_tables(pid)
        if tables is None or not tables.are_nearly_full:
            return None
        found = open_pagemap(pid).populated_runs(0, HOST.address_space_end)
        if found is not None:
            starts, ends = array("Q"), array("Q")
            for start, end in zip(*found, strict=True):
                if end - start >= _LONG:
                    starts.append(start)
                    ends.append(end)
            return PopulatedBefore(starts, ends, tables.resident)
    return None


def walk_beside_mappings(pagemap: Pagemap, tid: int, before: PopulatedBefore | None) -> None:
    """Begin to walk the page tables of a process that stands still and whose pages nobody counts,
    while its mappings are read.  ESRCH."""
    tables = address_space.page_tables(tid)
    if tables is None:
        return
    if before is not None and tables.resident >= before.resident * (1 - _GIVEN_BACK):
        known = before.starts, before.ends
        rest = tables.resident - size_of(known) // 1024
        if rest > _MUCH:
            pagemap.look_ahead(known)
        else:
            pagemap.find_all(known)
    elif tables.are_nearly_full or _takes_as_long_as_mappings(tables):
        pagemap.look_ahead()
    # If they are hardly filled, all cores walk them as soon as the mappings are known.


def _takes_as_long_as_mappings(tables: PageTables) -> bool:
    """True if a walk takes longer than the start of a thread, and not much longer than it takes to
    read thousands of mappings.

    If most of the memory is shared, it may be that none of it is asked for.
    """
    if tables.size > _AS_MANY or tables.are_hardly_filled:
        return False
    return tables.resident > _MUCH and (not tables.are_many or tables.is_mostly_private)


def walk_beside_smaps(pagemap: Pagemap, tid: int) -> None:
    """The same if smaps counts the pages meanwhile.  ESRCH."""
    tables = address_space.page_tables(tid)
    if tables is not None and tables.have_few_runs:
        pagemap.look_ahead()

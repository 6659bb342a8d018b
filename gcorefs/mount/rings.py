"""Processes that read each other's cores: a ring in which each stands still until the next one
closes a file, and none can."""

from collections.abc import Collection, Iterable


def closes_ring(reader: int, process: int, held: Iterable[tuple[int, Collection[int]]]) -> bool:
    """True if `reader` would never run on if it had the core of `process` open.

    All are pids.  `held`: each process that stands still until its readers close their files, and
    these readers.
    """
    held = [*held]
    # All that do not run on before `process` does.
    waiting = {process}
    while reader not in waiting:
        more = {pid for pid, readers in held if not waiting.isdisjoint(readers)} - waiting
        if not more:
            return False
        waiting |= more
    return True

"""Which holder a policy wants, and where a copy is kept."""

from collections.abc import Callable
from dataclasses import dataclass

from gcorefs.elfcore.memory_rules import memory_rule
from gcorefs.hold.copied import HoldCopy
from gcorefs.hold.copy import Copy
from gcorefs.hold.holder import Holder
from gcorefs.hold.room import Room
from gcorefs.hold.store import Store
from gcorefs.hold.uncopied import HoldNothing, HoldProcess
from gcorefs.policy import Policy


@dataclass(frozen=True, slots=True)
class Rooms:
    """Make the rooms for a copy: in memory, and on the disk of the spool."""

    memory: Callable[[], Room]
    disk: Callable[[], Room]


def import_holder(hold: str, has_spool: bool) -> None:
    """Import now what `holder_of` imports for such a policy.

    For a program that runs for weeks: later its files may be gone, or those of another version.
    """
    if has_spool:
        import gcorefs.hold.spool  # noqa: PLC0415
    if hold == "fork":
        import gcorefs.hold.forked  # noqa: PLC0415
    elif hold == "precopy":
        import gcorefs.hold.precopied  # noqa: F401, PLC0415


def holder_of(policy: Policy, rooms: Rooms) -> Holder:
    """The holder that a policy wants."""
    if policy.is_read_live:
        return HoldNothing(policy.hold)
    if policy.hold == "stop":
        return HoldProcess()

    def new_store() -> Store:
        if policy.spool:
            # Imported here, and below, to save memory in a dump without options (cli/victim.py).
            from gcorefs.hold.spool import Spool  # noqa: PLC0415

            return Spool(policy.spool, rooms.disk(), rooms.memory())
        return Copy(rooms.memory())

    if policy.hold == "fork":
        from gcorefs.hold.forked import HoldFork  # noqa: PLC0415

        return HoldFork(new_store)
    is_small = memory_rule(policy.memory).is_small
    if policy.hold == "precopy":
        from gcorefs.hold.precopied import HoldPrecopy, Rounds  # noqa: PLC0415

        return HoldPrecopy(new_store, Rounds(policy.precopy_rounds, policy.precopy_time), is_small)
    return HoldCopy(new_store, is_small)

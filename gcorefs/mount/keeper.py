"""What a core needs of the stop that it belongs to (stops.py has that stop)."""

from typing import Protocol

from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount.options import MountPolicy


class Keeper(Protocol):
    """Keeps the process stopped for its cores."""

    process: Process
    began: int
    why_over: str
    """Why the process was let go; empty if the last reader closed the file."""

    @property
    def is_over(self) -> bool:
        """True if nobody may join any more."""

    @property
    def paused_seconds(self) -> float:
        """How long the process stood still in pauses before the stop (hold=precopy)."""

    @property
    def is_let_go(self) -> bool: ...

    @property
    def may_run_on(self) -> bool:
        """True if no core needs the process to stand still."""

    def run_on(self) -> None:
        """Let the process run on.  Copied memory stays readable."""

    def let_go(self, why: str = "") -> None:
        """Let the process run on.  Nobody reads its memory from now on."""

    def touch(self) -> None:
        """A file of the process was read just now."""

    def hurry(self) -> None:
        """`open_by` of a core has changed: the deadline may be earlier now."""

    def leave(self) -> None:
        """A core has lost its last handle, and nobody is about to open it."""

    def policy_text(self, policy: MountPolicy) -> str:
        """The options of a core that differ from those of the mount."""

"""A stop and its one core, which is what most tests use."""

from collections.abc import Callable, Sequence
from typing import Any

from gcorefs.core import Core
from gcorefs.hold.copied import HoldCopy
from gcorefs.hold.copy import Copy
from gcorefs.hold.holder import Holder
from gcorefs.hold.room import Room
from gcorefs.hold.uncopied import HoldProcess
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process.access import Opener
from gcorefs.process.admission import find
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.stopped import Stop

__all__ = ["Snapshot", "find"]


class Snapshot:
    def __init__(
        self,
        process: Process,
        opener: Opener | None = None,
        policy: Policy = DEFAULT,
        on_end: Callable[[], None] = lambda: None,
        room: Room | None = None,
        holder: Holder | None = None,
    ) -> None:
        """`room`: for a copy of the memory, so that the process need not be held."""
        self.process = process
        self.holder = holder or (HoldProcess() if room is None else HoldCopy(lambda: Copy(room)))
        self.stop = Stop(process, opener, policy, on_end)
        self._core: Core | None = None
        self._records: Sequence[ThreadRecord] = ()

    def take(self) -> None:
        self.stop.take(self.holder)
        self._records = self.stop.records
        self._core = self.stop.core(holder=self.holder)

    @property
    def core(self) -> Core:
        assert self._core is not None
        return self._core

    @property
    def records(self) -> Sequence[ThreadRecord]:
        return self._records

    def copy(self) -> None:
        if self.stop.copy(self.core):
            self.stop.run_on()

    @property
    def size(self) -> int:
        return self.core.size

    def read(self, offset: int, length: int) -> bytes:
        return self.core.read(offset, length)

    def __getattr__(self, name: str) -> Any:
        """All other attributes are those of the stop or of the core."""
        return getattr(self.stop if hasattr(self.stop, name) else self.core, name)

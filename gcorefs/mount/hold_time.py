"""How long a process is held: each core has its own time, and the last one to end counts."""

from collections.abc import Collection
from math import inf

import trio

from gcorefs import tuning
from gcorefs.mount.cores import SharedCore


class HoldTime:
    """The time of one stop, by trio's clock."""

    def __init__(self, cores: Collection[SharedCore], open_timeout: float) -> None:
        """`cores`: those of the stop, one at least when they are asked for; they may change.
        `open_timeout`: seconds, for the log."""
        self._cores = cores
        self._open_timeout = open_timeout
        self._stopped_at = inf
        self._last_read = trio.current_time()
        self._scope: trio.CancelScope | None = None

    @property
    def wanted(self) -> list[SharedCore]:
        """The cores for which the process is held."""
        return [core for core in self._cores if core.is_wanted and not core.has_failed]

    @property
    def _counting(self) -> Collection[SharedCore]:
        """The cores whose time counts."""
        return self.wanted or self._cores

    def max_stop(self) -> float:
        """The longest of theirs, in seconds."""
        return max(core.policy.max_stop or inf for core in self._counting)

    @property
    def is_overdue(self) -> bool:
        """True if the last max_stop ended some time ago, whoever reads."""
        end = max(map(self._end_of, self._counting))
        return trio.current_time() > end + tuning.now().overdue

    def touch(self) -> None:
        """A core is read.  idle_timeout begins again."""
        self._last_read = trio.current_time()

    def hurry(self) -> None:
        """The deadline may be earlier now."""
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, self._deadline()[0])

    async def run_out(self, stopped_seconds: float, released: trio.Event) -> str:
        """Wait until idle_timeout, open_timeout or max_stop ends.  Returns which, in the words of
        the log; empty if the event came before.  The process stands still since so many seconds."""
        self._stopped_at = trio.current_time() - stopped_seconds
        self.touch()
        while True:
            with trio.move_on_at(self._deadline()[0]) as self._scope:
                await released.wait()
                return ""
            if any(core.bytes.reads_under_way for core in self._cores):
                self.touch()  # a reader that waits for its bytes is not idle
            deadline, why = self._deadline()
            if trio.current_time() >= deadline:
                return why

    def _deadline(self) -> tuple[float, str]:
        """When the last core has had its time, and why it ends then."""
        return max(map(self._deadline_of, self._counting))

    def _deadline_of(self, core: SharedCore) -> tuple[float, str]:
        policy = core.policy
        idle = policy.idle_timeout or inf
        return min(
            (core.open_by, f"its file was not opened for {self._open_timeout:g} s"),
            (self._end_of(core), f"it was stopped for {policy.max_stop:g} s"),
            (self._last_read + idle, f"its file was not read for {idle:g} s"),
        )

    def _end_of(self, core: SharedCore) -> float:
        return self._stopped_at + (core.policy.max_stop or inf)

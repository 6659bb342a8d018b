"""How long a process is held: each core has its own time, and the last one to end counts."""

from collections.abc import Collection
from math import inf

import trio

from gcorefs.mount.cores import SharedCore


class HoldTime:
    """The time of one stop, by trio's clock."""

    def __init__(self, open_timeout: float) -> None:
        """`open_timeout`: seconds, for the log."""
        self._open_timeout = open_timeout
        self._stopped_at = inf
        self._last_read = trio.current_time()

    def begin(self, stopped_seconds: float) -> None:
        """The process stands still since so many seconds."""
        self._stopped_at = trio.current_time() - stopped_seconds
        self.touch()

    def touch(self) -> None:
        """A core is read.  idle_timeout begins again."""
        self._last_read = trio.current_time()

    def deadline(self, cores: Collection[SharedCore]) -> tuple[float, str]:
        """When the last of these cores, one at least, has had its time, and why it ends then."""
        return max(map(self._deadline_of, cores))

    def end(self, cores: Collection[SharedCore]) -> float:
        """When the last max_stop ends, whoever reads."""
        return max(map(self._end_of, cores))

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

"""How soon after the last time, and how often a day something may be taken."""

from collections import deque

DAY = 86400.0


class Budget:
    """What one watch may take.  An attempt that failed counts too: it has stopped the process."""

    def __init__(self, cooldown: float, most_per_day: int) -> None:
        """`cooldown`: seconds from the end of one to the beginning of the next.
        `most_per_day`: in each 24 hours."""
        self._cooldown = cooldown
        self._most = most_per_day
        self._ends: deque[float] = deque()

    def taken(self, now: float) -> None:
        """`now`: seconds of a clock that goes on while the machine sleeps."""
        self._ends.append(now)

    def wait(self, now: float) -> float:
        """Seconds until the next may be taken; 0: now."""
        while self._ends and self._ends[0] <= now - DAY:
            self._ends.popleft()
        waits = [0.0]
        if self._ends:
            waits.append(self._ends[-1] + self._cooldown - now)
        if self.is_used_up(now):
            waits.append(self._ends[-self._most] + DAY - now)
        return max(waits)

    def is_used_up(self, now: float) -> bool:
        """True if the day has had all that it may have."""
        return sum(end > now - DAY for end in self._ends) >= self._most

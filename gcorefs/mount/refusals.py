"""The log lines about refused requests, which anybody may cause as often as they like."""

import time

from gcorefs.errors import Refusal, Why
from gcorefs.mount.fields import of_refusal
from gcorefs.mount.log import logger

_WINDOW = 10.0  # seconds
_MOST_ALIKE = 1_000
MOST_KINDS = 1_000
"""Kinds that are remembered.  With one more, all are forgotten."""


class Refusals:
    """Logs refusals.  Of many refusals with one reason, it logs the first ones and a count."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Why, str], tuple[float, int]] = {}

    def __len__(self) -> int:
        """The kinds that are remembered: a reason with its detail."""
        return len(self._seen)

    def log(self, error: Refusal) -> None:
        kind, now = (error.reason, error.detail), time.monotonic()
        begun, count = self._seen.get(kind, (now, 0))
        if now - begun >= _WINDOW:
            if count > _MOST_ALIKE:
                more = count - _MOST_ALIKE
                fields = of_refusal(error, more)
                logger.warning(
                    "%s: %d more times", error.reason.text, more, extra={"fields": fields}
                )
            begun, count = now, 0
        if len(self) >= MOST_KINDS:
            self._seen.clear()
        self._seen[kind] = begun, count + 1
        if count < _MOST_ALIKE:
            logger.warning("%s", error, extra={"fields": of_refusal(error)})

"""The texts of --when: rss>8G|cpu>90%|memory.high|D>30s|threads>5000, and of times: 500ms, 10s.

A bar separates conditions of which one suffices.
"""

import re
from dataclasses import dataclass

from gcorefs.errors import GcorefsError

GROUP_EVENTS = ("memory.high", "memory.max")
"""Conditions without a limit: the kernel counts them (cgroup-v2.rst, memory.events)."""

CPU_OVER = 10.0
"""Seconds over which cpu is the mean, if nothing else is said."""

LEAST_TIME = 0.01

_NUMBER = r"(\d{1,12}(?:\.\d{1,9})?)"
_TIME = re.compile(_NUMBER + "(ms|s|m|h)?", re.ASCII)
_SIZE = re.compile(_NUMBER + "([KMGT]?)", re.ASCII)
_PERCENT = re.compile(_NUMBER + "%", re.ASCII)
_COUNT = re.compile(r"(\d{1,12})", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

_KNOWN = f"rss>8G, cpu>90%, cpu>90%/30s, threads>5000, D>30s, {', '.join(GROUP_EVENTS)}"


class WordError(GcorefsError, ValueError):
    """A text that names no condition, in one line."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a process."""

    text: str
    word: str
    """What is looked at: rss, cpu, threads, D, or one of GROUP_EVENTS."""
    limit: float = 0.0
    """Bytes, percent of one processor, threads, or seconds."""
    over: float = 0.0
    """cpu: the seconds over which it is the mean."""


def seconds(text: str) -> float | None:
    """A time as in 500ms, 10s, 2m, 1h; a number alone has seconds.  None: it is no such text."""
    match = _TIME.fullmatch(text)
    found = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    return found if found >= LEAST_TIME else None


def conditions(text: str) -> list[Condition]:
    """WordError."""
    return [_condition(each.strip()) for each in text.split("|")]


def _condition(text: str) -> Condition:
    if text in GROUP_EVENTS:
        return Condition(text, text)
    word, sign, value = (part.strip() for part in text.partition(">"))
    if not sign or word not in ("rss", "cpu", "threads", "D"):
        raise WordError(f"{text!r} is no condition; there are {_KNOWN}")
    value, has_over, over_text = (part.strip() for part in value.partition("/"))
    over = 0.0
    if word == "cpu":
        over = (seconds(over_text) or 0.0) if has_over else CPU_OVER
    if bool(has_over) > (word == "cpu" and over > 0):
        raise WordError(f"{text!r}: only cpu is a mean, over a time as in cpu>90%/30s")
    limit = _limit(word, value)
    if limit is None:
        raise WordError(f"{text!r}: {_EXAMPLES[word]}")
    return Condition(text, word, limit, over)


_EXAMPLES = {
    "rss": "the limit is a size as in rss>500M or rss>8G",
    "cpu": "the limit is a percentage of one processor as in cpu>90% or cpu>350%",
    "threads": "the limit is a number as in threads>5000",
    "D": "the limit is a time as in D>500ms or D>30s",
}


def _limit(word: str, value: str) -> float | None:
    if word == "D":
        return seconds(value)
    if word == "rss":
        match = _SIZE.fullmatch(value)
        return float(match[1]) * _BYTES[match[2]] if match else None
    match = (_PERCENT if word == "cpu" else _COUNT).fullmatch(value)
    return float(match[1]) if match else None

"""One thing that was looked at: a mark, a fact, and the next step if there is one."""

import enum
from dataclasses import dataclass


class Mark(enum.Enum):
    OK = "ok"
    NOTE = "note"
    """Something is missing or limited; a dump works all the same."""
    PROBLEM = "problem"
    """A dump does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    topic: str
    mark: Mark
    fact: str
    """What is so, and what is lost by it."""
    step: str = ""
    """What to do about it; empty if there is nothing to do."""


def ok(topic: str, fact: str) -> Finding:
    return Finding(topic, Mark.OK, fact)


def note(topic: str, fact: str, step: str = "") -> Finding:
    return Finding(topic, Mark.NOTE, fact, step)


def problem(topic: str, fact: str, step: str = "") -> Finding:
    return Finding(topic, Mark.PROBLEM, fact, step)

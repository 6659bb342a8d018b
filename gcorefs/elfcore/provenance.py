"""How a core was had, in a note of our own: who made it when, and how each thread was recorded.

The descriptor is one line of JSON, so that strings(1) shows it where no reader knows the
note.  Its type must be one that nobody else uses: gdb takes a note whose owner it does not
know for one of the system's, and goes by the type alone (bfd/elf.c, elf_parse_notes).
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gcorefs.arch.xsave import XsaveAccount
from gcorefs.elfcore.elf import pack_note

GCOREFS = b"GCOREFS"
NT_GCOREFS = int.from_bytes(b"GCOR", "big")
NT_GCOREFS_XSTATE = int.from_bytes(b"GCXS", "big")
"""Of one thread, behind its NT_X86_XSTATE: the bytes that the kernel gives for that note, where
they cannot be had from what is written (xsave.py)."""

How = Literal["stopped", "partial", "zero", "omitted"]
"""How a thread's registers were had: all of them at its stop; those of its system call, from
/proc; none, they are zeros; or the thread is not in the core."""


MOST_RANGES = 1000
"""Unreadable ranges that are listed.  All are counted."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of every byte that the process had mapped."""

    recorded: int = 0
    """Bytes that the file holds, those unreadable among them."""
    zeros: int = 0
    """Never populated: they read as zeros."""
    shared: int = 0
    """Of these, bytes for which the area of zeros stands; the others are in the file, each one."""
    area: int = 0
    """Bytes of that area, the last ones of the file (segments.py)."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Bytes by the reason for which the core does not have them."""
    beyond: int = 0
    """Bytes of mapped files that the kernel's dumper would not take (filter.py, kept_size)."""
    unreadable: int = 0
    """Bytes that are zeros in the file because nobody could read them."""
    ranges: Sequence[tuple[int, int]] = ()
    """Where these are, start and end, as far as it was known when the header was made."""
    names: Mapping[int, str] = field(default_factory=dict)
    """[heap], [stack] and the like, by where they begin; NT_FILE has the files."""

    def facts(self) -> dict[str, Any]:
        left_out = sum(self.left_out.values())
        return {
            "bytes": {
                "mapped": self.recorded + self.zeros + left_out,
                "recorded": self.recorded,
                "zeros": self.zeros,
                "left_out": left_out,
                "beyond_kernel": self.beyond,
                "unreadable": self.unreadable,
            },
            "zeros": {"area": self.area, "shared": self.shared},
            "left_out": dict(self.left_out),
            "unreadable": as_text(self.ranges[:MOST_RANGES]),
            "names": {f"{start:x}": name for start, name in self.names.items()},
        }


def as_text(ranges: Sequence[tuple[int, int]]) -> list[str]:
    """Ranges of addresses, each as /proc/PID/maps writes it."""
    return [f"{start:x}-{end:x}" for start, end in ranges]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made the core, of what, and when."""

    version: str
    host: str
    pid: int
    """As the host numbers it; PRPSINFO has the process's own view."""
    stopped_at: str
    """When the first thread was interrupted: ISO 8601, UTC."""
    stop_milliseconds: float
    """From then until the last thread was recorded."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the note says.  Thread ids are those of PRSTATUS."""

    origin: Origin
    policy: Mapping[str, str | float]
    """Options that shaped the core."""
    stopped: int
    """Threads that are recorded in full, ..."""
    others: Mapping[int, How]
    """... and how each of the others is."""
    account: Account = field(default_factory=Account)
    no_cpu: Sequence[int] = ()
    """Of the others, those that did not stop because they got no CPU."""
    xstate: XsaveAccount | None = None
    """Where the vector registers lie; None where that is not known, or there are none."""

    def pack(self) -> bytes:
        text = json.dumps(self.facts(), separators=(",", ":"))
        return pack_note(GCOREFS, NT_GCOREFS, text.encode("ascii"))

    def facts(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        tids: dict[How, list[int]] = {how: [] for how in get_args(How)}
        for tid, how in self.others.items():
            tids[how].append(tid)
        return {
            **dataclasses.asdict(self.origin),
            "stop_milliseconds": round(self.origin.stop_milliseconds, 3),
            "policy": dict(self.policy),
            "threads": {how: len(found) for how, found in tids.items()} | {"stopped": self.stopped},
            "tids": {how: found for how, found in tids.items() if found},
            **({"no_cpu": list(self.no_cpu)} if self.no_cpu else {}),
            **({} if self.xstate is None else {"xstate": self.xstate.facts()}),
            **self.account.facts(),
        }

    def attributes(self) -> dict[str, str]:
        """The same as names and texts, one fact each: "threads.stopped" is "20" (xattr(7))."""
        facts = self.facts()
        del facts["names"]  # of the process's memory, not of the core
        found = {}
        for name, value in facts.items():
            for key, inner in value.items() if isinstance(value, dict) else [("", value)]:
                text = " ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
                found[f"{name}.{key}" if key else name] = text
        return found


class FactsError(ValueError):
    """The note is not one that gcorefs writes.  One line."""


_SHAPE: dict[str, type | tuple[type, ...]] = {
    "version": str,
    "host": str,
    "pid": int,
    "stopped_at": str,
    "stop_milliseconds": (int, float),
    "policy": dict,
    "threads": dict,
    "tids": dict,
    "bytes": dict,
    "zeros": dict,
    "left_out": dict,
    "unreadable": list,
    "names": dict,
}
_SHAPE_OF_XSTATE: dict[str, type] = {
    "layout": str,
    "size": int,
    "kernel_size": int,
    "kernel_features": str,
    "kernel_components": list,
    "kept": int,
}
_COUNTS = {
    "threads": get_args(How),
    "bytes": ("mapped", "recorded", "zeros", "left_out", "unreadable"),
    "zeros": ("area", "shared"),
    "left_out": (),
}
"""What is counted, and what must be among it."""

_RANGE = re.compile("([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_ADDRESS = re.compile("[0-9a-f]{1,16}")


def parse(desc: bytes) -> dict[str, Any]:
    """The facts of a note: what `Provenance.facts` gave, and what later versions may add.

    Raises FactsError.
    """
    try:
        facts = json.loads(desc)
    except (ValueError, RecursionError) as error:
        raise FactsError("it is not JSON") from error
    if not isinstance(facts, dict):
        raise FactsError("it is not a JSON object")
    for name, kind in _SHAPE.items():
        if not isinstance(facts.get(name), kind):
            raise FactsError(f"{name} is not what it should be")
    if not _is_count(facts["pid"]):
        raise FactsError("pid is not what it should be")
    for name, keys in _COUNTS.items():
        if not facts[name].keys() >= {*keys} or not all(map(_is_count, facts[name].values())):
            raise FactsError(f"{name} is not what it should be")
    if "xstate" in facts:
        xstate = facts["xstate"]
        if not isinstance(xstate, dict) or not all(
            isinstance(xstate.get(name), kind) for name, kind in _SHAPE_OF_XSTATE.items()
        ):
            raise FactsError("xstate is not what it should be")
    lists = [("tids", found) for found in facts["tids"].values()]
    lists.append(("no_cpu", facts.get("no_cpu", [])))
    if wrong := [name for name, found in lists if not isinstance(found, list)]:
        raise FactsError(f"{wrong[0]} is not what it should be")
    from_text(facts["unreadable"])
    for start, name in facts["names"].items():
        if not _ADDRESS.fullmatch(start) or not isinstance(name, str):
            raise FactsError("names is not what it should be")
    return facts


def from_text(texts: Sequence[str]) -> list[tuple[int, int]]:
    """What `as_text` has written.  FactsError where it has not, or not in order."""
    ranges: list[tuple[int, int]] = []
    border = 0
    for text in texts:
        match = _RANGE.fullmatch(text) if isinstance(text, str) else None
        start, end = (int(word, 16) for word in match.groups()) if match else (0, 0)
        if not border <= start < end:
            raise FactsError("unreadable is not what it should be")
        ranges.append((start, end))
        border = end
    return ranges


def _is_count(number: object) -> bool:
    return isinstance(number, int) and 0 <= number < 1 << 64

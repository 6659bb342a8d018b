"""How a core was made, in a note of our own: when, by which gcorefs, and how each thread was
recorded.

The descriptor is one line of JSON, so that strings(1) shows it even if no reader knows the
note.  The type of the note must be unique: if gdb does not know the owner of a note, it goes by
the type alone (bfd/elf.c, elf_parse_notes).
"""

import dataclasses
import enum
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gcorefs.arch.xsave import XsaveAccount
from gcorefs.elfcore.elf import pack_note
from gcorefs.errors import GcorefsError

GCOREFS = b"GCOREFS"
NT_GCOREFS = int.from_bytes(b"GCOR", "big")
NT_GCOREFS_XSTATE = int.from_bytes(b"GCXS", "big")
"""A note of one thread, behind its NT_X86_XSTATE: the kernel's bytes for that note, if they
cannot be computed from the bytes that were written (xsave.py)."""


class How(enum.StrEnum):
    """How the registers of a thread were read."""

    STOPPED = "stopped"
    """All of them, at its stop."""
    BLOCKED = "blocked-exact"
    """All of them, while it slept in a system call.  The result of that call is not known yet: the
    register for it has what the kernel puts there meanwhile."""
    PARTIAL = "partial"
    """Those of its system call, from /proc."""
    STALE = "stale"
    """All of them, as they were when it entered the kernel for the last time.  It has run since, or
    may have."""
    ZERO = "zero"
    """None.  They are zeros in the core."""
    OMITTED = "omitted"
    """None.  The thread is not in the core."""

    @property
    def is_exact(self) -> bool:
        """True if every register is what the thread had."""
        return self in (How.STOPPED, How.BLOCKED)


_ALWAYS = frozenset((How.STOPPED, How.PARTIAL, How.ZERO, How.OMITTED))
"""Those that a note counts even if there is no such thread."""
MOST_RANGES = 1000
"""The note lists no more unreadable ranges than this.  It counts all of them."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of every byte that the process had mapped."""

    recorded: int = 0
    """Bytes that the file holds, the unreadable bytes included."""
    zeros: int = 0
    """Bytes that were never populated: they read as zeros."""
    shared: int = 0
    """The part of `zeros` that the area of zeros stands for; the file holds each other zero."""
    area: int = 0
    """Bytes of the area of zeros, the last bytes of the file (segments.py)."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Bytes that the core does not have, by reason."""
    beyond: int = 0
    """Bytes of mapped files that the kernel's dumper would leave out (filter.py, kept_size)."""
    unreadable: int = 0
    """Bytes that are zeros in the file because they could not be read."""
    guards: int = 0
    """Bytes of guard pages: zeros, and no loss, as the process itself cannot read them."""
    ranges: Sequence[tuple[int, int]] = ()
    """Start and end of the unreadable ranges that were known when the header was made."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names like [heap] and [stack], by start address; NT_FILE has the files."""

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
                "guards": self.guards,
            },
            "zeros": {"area": self.area, "shared": self.shared},
            "left_out": dict(self.left_out),
            "unreadable": as_text(self.ranges[:MOST_RANGES]),
            "names": {f"{start:x}": name for start, name in self.names.items()},
        }


def as_text(ranges: Sequence[tuple[int, int]]) -> list[str]:
    """Ranges of addresses, in the format of /proc/PID/maps."""
    return [f"{start:x}-{end:x}" for start, end in ranges]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made the core, of which process, and when."""

    version: str
    host: str
    pid: int
    """The PID on the host; PRPSINFO has the PID in the process's own pid namespace."""
    stopped_at: str
    """When the first thread was interrupted: ISO 8601, UTC."""
    stop_milliseconds: float
    """The time from `stopped_at` until the last thread was recorded."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The content of the note.  Thread ids are those of PRSTATUS."""

    origin: Origin
    policy: Mapping[str, str | float]
    """The options that shaped the core."""
    stopped: int
    """The number of threads that are recorded in full."""
    others: Mapping[int, How]
    """How each other thread is recorded."""
    account: Account = field(default_factory=Account)
    no_cpu: Sequence[int] = ()
    """The threads of `others` that did not stop because they got no CPU."""
    cut_stacks: Sequence[int] = ()
    """The threads of whose stacks a part is left out because it is longer than stack_limit."""
    xstate: XsaveAccount | None = None
    """Where the vector registers lie; None if that is not known, or if there are none."""

    def pack(self) -> bytes:
        text = json.dumps(self.facts(), separators=(",", ":"))
        return pack_note(GCOREFS, NT_GCOREFS, text.encode("ascii"))

    def facts(self) -> dict[str, Any]:
        """The content of the note as JSON values."""
        tids: dict[str, list[int]] = {how.value: [] for how in How}
        for tid, how in self.others.items():
            tids[how.value].append(tid)
        return {
            **dataclasses.asdict(self.origin),
            "stop_milliseconds": round(self.origin.stop_milliseconds, 3),
            "policy": dict(self.policy),
            "threads": {
                **{how: len(found) for how, found in tids.items() if found or how in _ALWAYS},
                How.STOPPED.value: self.stopped,
            },
            "tids": {how: found for how, found in tids.items() if found},
            **({"no_cpu": list(self.no_cpu)} if self.no_cpu else {}),
            **({"cut_stacks": list(self.cut_stacks)} if self.cut_stacks else {}),
            **({} if self.xstate is None else {"xstate": self.xstate.facts()}),
            **self.account.facts(),
        }

    def attributes(self) -> dict[str, str]:
        """The facts as extended attributes (xattr(7)): "threads.stopped" is "20"."""
        facts = self.facts()
        del facts["names"]  # they describe the memory of the process, not the core
        found = {}
        for name, value in facts.items():
            for key, inner in value.items() if isinstance(value, dict) else [("", value)]:
                text = " ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
                found[f"{name}.{key}" if key else name] = text
        return found


class FactsError(GcorefsError, ValueError):
    """gcorefs does not write a note like this.  The text is one line."""


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
    "threads": tuple(how.value for how in _ALWAYS),
    "bytes": ("mapped", "recorded", "zeros", "left_out", "unreadable"),
    "zeros": ("area", "shared"),
    "left_out": (),
}
"""The facts that map names to counts, and the names that each of them must have."""

_RANGE = re.compile("([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_ADDRESS = re.compile("[0-9a-f]{1,16}")


def _finite(word: str) -> float:
    """A number of JSON.  ValueError: NaN and Infinity, which only Python takes, or a number that is
    too large for a float."""
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(word)
    return number


def parse(desc: bytes) -> dict[str, Any]:
    """The facts of a note: the value of `Provenance.facts`, and facts that later versions add.

    Raises FactsError.
    """
    try:
        facts = json.loads(desc, parse_constant=_finite, parse_float=_finite)
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
    lists += [(name, facts.get(name, [])) for name in ("no_cpu", "cut_stacks")]
    if wrong := [name for name, found in lists if not isinstance(found, list)]:
        raise FactsError(f"{wrong[0]} is not what it should be")
    from_text(facts["unreadable"])
    for start, name in facts["names"].items():
        if not _ADDRESS.fullmatch(start) or not isinstance(name, str):
            raise FactsError("names is not what it should be")
    return facts


def from_text(texts: Sequence[str]) -> list[tuple[int, int]]:
    """The ranges in a text of `as_text`.  FactsError if the text is malformed or not in order."""
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

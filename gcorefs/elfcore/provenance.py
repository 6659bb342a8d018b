"""How a core was had, in a note of our own: who made it when, and how each thread was recorded.

The descriptor is one line of JSON, so that strings(1) shows it where no reader knows the
note.  Its type must be one that nobody else uses: gdb takes a note whose owner it does not
know for one of the system's, and goes by the type alone (bfd/elf.c, elf_parse_notes).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gcorefs.elfcore.elf import pack_note

GCOREFS = b"GCOREFS"
NT_GCOREFS = int.from_bytes(b"GCOR", "big")

How = Literal["stopped", "partial", "zero", "omitted"]
"""How a thread's registers were had: all of them at its stop; those of its system call, from
/proc; none, they are zeros; or the thread is not in the core."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the note says.  Thread ids are those of PRSTATUS."""

    version: str
    host: str
    pid: int
    """As the host numbers it; PRPSINFO has the process's own view."""
    stopped_at: str
    """When the first thread was interrupted: ISO 8601, UTC."""
    stop_milliseconds: float
    """From then until the last thread was recorded."""
    policy: Mapping[str, str | float]
    """Options that shaped the core."""
    threads: Mapping[int, How]

    def pack(self) -> bytes:
        text = json.dumps(self.facts(), separators=(",", ":"))
        return pack_note(GCOREFS, NT_GCOREFS, text.encode("ascii"))

    def facts(self) -> dict[str, Any]:
        """Everything as JSON has it.  Threads are counted; of those that did not stop the ids
        are given as well."""
        tids: dict[How, list[int]] = {how: [] for how in get_args(How)}
        for tid, how in self.threads.items():
            tids[how].append(tid)
        return {
            "version": self.version,
            "host": self.host,
            "pid": self.pid,
            "stopped_at": self.stopped_at,
            "stop_milliseconds": round(self.stop_milliseconds, 3),
            "policy": dict(self.policy),
            "threads": {how: len(found) for how, found in tids.items()},
            "tids": {how: found for how, found in tids.items() if found and how != "stopped"},
        }

    def attributes(self) -> dict[str, str]:
        """The same as names and texts, one fact each: "threads.stopped" is "20" (xattr(7))."""
        found = {}
        for name, value in self.facts().items():
            for key, inner in value.items() if isinstance(value, dict) else [("", value)]:
                text = " ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
                found[f"{name}.{key}" if key else name] = text
        return found

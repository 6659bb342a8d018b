"""What a bundle has, and what it lacks: manifest.json."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gcorefs import __version__
from gcorefs.arch import NAME
from gcorefs.bundle.mapped_files import Kept, NotTaken

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """A file in the bundle."""

    kept: Kept
    place: str
    names: dict[str, None] = field(default_factory=dict)
    """Other paths of it in the process, under which the dynamic linker knows it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a bundle comes from."""

    name: str
    """Of the directory that the bundle is."""
    pid: int
    taken_at: str
    """As ISO 8601."""
    core_size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Lacks:
    """What a bundle lacks, and why."""

    files: Sequence[NotTaken]
    parts: dict[Kept, str]
    """Files of which a part is zeros."""
    facts: dict[str, str]
    """Files of /proc/PID."""


def manifest(origin: Origin, files: Sequence[Placed], lacks: Lacks) -> bytes:
    """Bytes that are not UTF-8 are surrogates, as in Python (PEP 383)."""
    program = next((each.place for each in files if each.kept.is_program), None)
    found = {
        "format": _FORMAT,
        "gcorefs": __version__,
        "pid": origin.pid,
        "taken_at": origin.taken_at,
        "host": platform.node(),
        "machine": NAME,
        "kernel": platform.release(),
        "core": {"in_bundle": "core", "size": origin.core_size},
        "program": program,
        "files": [_file(each, lacks) for each in files],
        "not_taken": [{"path": os.fsdecode(each.path), "why": each.why} for each in lacks.files],
        "proc_not_taken": lacks.facts,
    }
    return json.dumps(found, indent=2).encode() + b"\n"


def _file(it: Placed, lacks: Lacks) -> dict[str, Any]:
    found = {
        "path": os.fsdecode(it.kept.path),
        "in_bundle": it.place,
        "size": it.kept.size,
        "build_id": it.kept.build_id or None,
        "deleted": it.kept.is_deleted,
        "changed": it.kept.is_changed,
        "names": [*it.names],
    }
    why = lacks.parts.get(it.kept)
    return found if why is None else found | {"partly_zeros": why}

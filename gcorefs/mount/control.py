"""The mount's own files: what is held now, and a way to let it go.

Both files are for whoever opened: a user sees and lets go their own, root and the user who mounted
everybody's.  Who opens is judged at open(2) and not at write(2), so that a file handed to a
set-uid program gives nobody more than they had.
"""

import json
import os
from typing import Any

from gcorefs import __version__
from gcorefs.mount import names
from gcorefs.mount.held import Held
from gcorefs.mount.log import logger
from gcorefs.mount.stops import Stop
from gcorefs.process import readv
from gcorefs.process.errors import ProcessError, Reason

DIRECTORY, STATUS, RELEASE, EXACT = 2, 3, 4, 5
"""Inode numbers.  1 is the mount itself; those of processes are above 2^22 (inodes.py)."""

BY_NAME = {names.STATUS: STATUS, names.RELEASE: RELEASE, names.EXACT: EXACT}


class StatusFile:
    """What is held, as it was when the file was opened."""

    def __init__(self, held: Held, uid: int) -> None:
        stops = [report for stop in held.all() if (report := _report(stop, uid))]
        facts = {
            "version": __version__,
            "process_vm_readv": "denied" if readv.is_denied() else "allowed",
            "stops": stops,
        }
        self._text = json.dumps(facts, indent=2).encode("ascii") + b"\n"

    def read(self, offset: int, length: int) -> bytes:
        return self._text[offset : offset + length]


class ReleaseFile:
    """A pid written here is let go."""

    def __init__(self, held: Held, uid: int, pid: int) -> None:
        self._held = held
        self._uid = uid
        self._pid = pid

    def write(self, data: bytes) -> int:
        """All of `data` or an error: EINVAL no pid; ESRCH not held; EPERM another user's."""
        pid = names.pid_written(data)
        if not pid:
            raise ProcessError(Reason.NO_PID, self._pid, f"uid {self._uid}")
        found = [stop for stop in self._held.all() if stop.process.pid == pid]
        held = [stop for stop in found if not stop.is_over]
        if not held:
            raise ProcessError(Reason.NOT_HELD, pid)
        for stop in held:
            if not is_everybodys(self._uid) and stop.holders(None) != stop.holders(self._uid):
                raise ProcessError(Reason.NOT_YOURS, pid, f"uid {self._uid}")
        why = f"process {self._pid} (uid {self._uid}) released it"
        for stop in held:
            stop.let_go(why)
        logger.info("process %d: let go, %s", pid, why)
        return len(data)


def is_everybodys(uid: int) -> bool:
    """True for who sees and lets go what others have opened."""
    return uid in (0, os.geteuid())


def _report(stop: Stop, uid: int) -> dict[str, Any] | None:
    """What `uid` may know of a stop, None where that is nothing."""
    whose = None if is_everybodys(uid) else uid
    holders = stop.holders(whose)
    if not holders:
        return None
    return stop.report() | {
        "files": stop.files(whose),
        "openers": [{"pid": each.pid, "uid": each.uid} for each in dict.fromkeys(holders)],
    }

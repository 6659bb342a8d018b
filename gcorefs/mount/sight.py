"""What each user may see of the processes: what /proc shows them, and what they may open.

All functions but is_known_open run in a thread: they ask /proc, and the kernel may make them wait.
"""

import contextlib
import os
import time
from dataclasses import dataclass

from gcorefs import tuning
from gcorefs.kernel import statx
from gcorefs.kernel.proc import procfile, task_status, tasks
from gcorefs.look import Look, look
from gcorefs.process import access, hidepid
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.hidepid import ProcOptions, Shown
from gcorefs.steps import Step

_STAYS_TRUE = 1.0
"""Seconds for which the mount options of /proc are not read again: mountinfo grows with the mounts,
and an administrator remounts /proc rarely."""

_UNKNOWN = ProcOptions(hidepid="unknown")
"""Used if the options cannot be read: then every user is checked."""

_ROOT = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request: a thread, and the file system ids that FUSE gives."""

    tid: int
    uid: int
    gid: int


def is_everybodys(uid: int) -> bool:
    """True for who sees and lets go what others have opened."""
    return uid in (_ROOT, os.geteuid())


class Sight:
    def __init__(self) -> None:
        self._options = _UNKNOWN
        self._read_at = -_STAYS_TRUE
        self._device = 0

    def mounted_as(self, device: int) -> None:
        """`device`: st_dev of the mount's files."""
        self._device = device

    def is_known_open(self, uid: int) -> bool:
        """True if /proc hid nothing from `uid` a moment ago.  Asks nobody."""
        is_recent = time.monotonic() - self._read_at < _STAYS_TRUE
        return is_recent and (not self._options.hides or _is_server_for(uid))

    def viewer(self, caller: Caller) -> Opener | None:
        """The caller, if /proc may hide processes from it; else None.  EACCES."""
        if not self._hides_from(caller.uid):
            return None
        try:
            return access.identify(caller.tid, caller.uid, caller.gid, 0)
        except OSError as error:
            if isinstance(error, ProcessError):
                raise
            raise ProcessError(Reason.UNKNOWN_OPENER, 0, f"uid {caller.uid}") from error

    def pids(self, viewer: Opener | None, uid: int) -> list[int]:
        """The processes that a directory lists, in order.  `viewer` has opened it, as `uid`.

        EACCES if it was opened before /proc was remounted with hidepid=.
        """
        if viewer is not None:
            return sorted(hidepid.shown_pids(self._now(), viewer))
        if self._hides_from(uid):
            raise ProcessError(
                Reason.UNKNOWN_OPENER, 0, "/proc was remounted with hidepid= meanwhile"
            )
        return sorted(tasks.user_pids())

    def shows(self, viewer: Opener | None, uid: int, pid: int) -> bool:
        """True if /proc shows all of a process to `viewer`, who has the uid `uid`."""
        if viewer is None:
            return not self._hides_from(uid)
        return self._shown(viewer, pid) is Shown.ALL

    def look(self, pid: int, caller: Caller, number: int = 0) -> Look | None:
        """The process as the caller may see it; None if there is none for them.

        A caller that has the file open (inode `number`) always sees it.  EACCES: see `viewer` and
        look.look.
        """
        viewer = self.viewer(caller)
        shown = Shown.ALL if viewer is None else self._shown(viewer, pid)
        if shown is not Shown.ALL and number and self.has_open(caller, number):
            shown = Shown.ALL
        if shown is Shown.NOTHING:
            return None
        tuning.now().reach(Step.LOOKUP, pid)
        try:
            found = look(pid)
        except ProcessLookupError:
            return None
        return found if shown is Shown.ALL else found.name_only()

    def opener(self, pid: int, caller: Caller) -> Opener | None:
        """The caller, if the kernel allows it the core of a process; else None."""
        try:
            opener = access.identify(caller.tid, caller.uid, caller.gid, pid)
            access.check(opener, pid)
        except OSError as error:
            if isinstance(error, ProcessError) and error.reason is Reason.STUCK:
                raise
            return None
        return opener

    def has_open(self, caller: Caller, number: int) -> bool:
        """True if the caller has the file of inode `number` open, by its own open(2) or passed
        to it."""
        return _has_open(caller.tid, self._device, number)

    def _shown(self, viewer: Opener, pid: int) -> Shown:
        try:
            return hidepid.shown(self._now(), viewer, pid)
        except PermissionError:  # without root we cannot ask for another user
            return Shown.NOTHING

    def _hides_from(self, uid: int) -> bool:
        return not _is_server_for(uid) and self._now().hides

    def _now(self) -> ProcOptions:
        now = time.monotonic()
        if now - self._read_at >= _STAYS_TRUE:
            try:
                self._options = hidepid.own_options()
            except (OSError, procfile.FormatError):
                self._options = _UNKNOWN
            self._read_at = now
        return self._options


def _is_server_for(uid: int) -> bool:
    """True if a server without root may show `uid` what /proc shows to the server itself: the
    server's own user, or root."""
    return os.geteuid() != _ROOT and uid in (_ROOT, os.geteuid())


_MOST_DESCRIPTORS = 4096


def _has_open(tid: int, device: int, number: int) -> bool:
    """True if thread `tid` has a descriptor that reads inode `number` of file system `device`.

    Only its first 4096 descriptors are checked.  For fstat(2), FUSE does not tell us which
    descriptor it is about (fs/fuse/dir.c, fuse_getattr).
    """
    wanted = os.major(device), os.minor(device), number
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{tid}/fd")[:_MOST_DESCRIPTORS]:
            with contextlib.suppress(OSError):
                if statx.cached_stat(f"/proc/{tid}/fd/{fd}").identity == wanted:
                    flags = task_status.fdinfo(tid, fd)["flags"]
                    if not int(flags, 8) & os.O_PATH:
                        return True
    return False

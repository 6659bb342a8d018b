"""What /proc shows to another user (proc(5), hidepid= and gid=).

The mount options of our own /proc, in our mount namespace, decide.  With hidepid=, a user sees only
their own processes and the processes that they may trace (fs/proc/base.c, has_pid_permissions:
PTRACE_MODE_READ_FSCREDS).  So we ask the kernel under the credentials of the user, as for an
open(2) (access.py).  Without hidepid= every user sees every process, and we need not ask;
subset=pid hides no process.
"""

import enum
import os
from dataclasses import dataclass

from gcorefs.kernel.proc import procfile, task_status, tasks
from gcorefs.kernel.proc.mountinfo import parse_mounts
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process import access
from gcorefs.process.access import Opener


class Shown(enum.Enum):
    """What /proc shows a user of a process."""

    NOTHING = enum.auto()
    NAME = enum.auto()
    """Its number and its owner (hidepid=1)."""
    ALL = enum.auto()
    """Also the files with read permission for everybody: stat and status."""


@dataclass(frozen=True, slots=True)
class ProcOptions:
    """The mount options of a /proc."""

    hidepid: str = "off"
    gid: int = 0
    """Members of this group see every process, except with hidepid=ptraceable."""

    @property
    def hides(self) -> bool:
        return self.hidepid not in _OFF

    def exempts(self, opener: Opener) -> bool:
        return self.hidepid not in _PTRACEABLE and self.gid in (opener.gid, *opener.groups)


# fs/proc/root.c, proc_show_options: a number before Linux 5.8, a word since.
_OFF = ("off", "0")
_PTRACEABLE = ("ptraceable", "4")


def own_options() -> ProcOptions:
    """The mount options of our /proc now.  FormatError, OSError."""
    return parse_options(procfile.read_system("self/mountinfo"))


def parse_options(mountinfo: bytes) -> ProcOptions:
    """The mount options of /proc; the last mount is on top.  FormatError: no /proc in the text."""
    options = None
    for mount in parse_mounts(mountinfo):
        if mount.place == b"/proc":
            options = mount.options
    if options is None:
        raise FormatError("mountinfo has no /proc")
    try:
        words = dict(word.partition("=")[::2] for word in options.decode().split(","))
        return ProcOptions(words.get("hidepid", "off"), int(words.get("gid", "0")))
    except ValueError as error:
        raise FormatError("unexpected text in mountinfo") from error


def shown_pids(options: ProcOptions, opener: Opener) -> list[int]:
    """Every process that is no kernel thread and whose name /proc shows to `opener`."""
    names = set(access.under(opener, tasks.pids))
    # The kernel cannot answer this about our own process: see _shows_us.
    names.discard(os.getpid())
    if options.hidepid in _NAMES or _shows_us(options, opener):
        names.add(os.getpid())
    return [pid for pid in tasks.user_pids() if pid in names or pid == opener.pid]


_NAMES = ("noaccess", "1")


def shown(options: ProcOptions, opener: Opener, pid: int) -> Shown:
    """What /proc shows to `opener` of the number `pid`, which may be no process."""
    if pid == opener.pid:  # a process sees all of itself
        return Shown.ALL
    if pid == os.getpid():
        if _shows_us(options, opener):
            return Shown.ALL
        return Shown.NAME if options.hidepid in _NAMES else Shown.NOTHING
    return access.under(opener, lambda: _shown(pid))


def _shown(pid: int) -> Shown:
    try:
        os.stat(f"/proc/{pid}")
    except OSError:
        return Shown.NOTHING
    try:
        os.stat(f"/proc/{pid}/stat")
    except OSError:
        return Shown.NAME
    return Shown.ALL


def _shows_us(options: ProcOptions, opener: Opener) -> bool:
    """True if /proc shows all of our own process to `opener`.

    A thread of ours always sees its own process, whatever its credentials are (kernel/ptrace.c,
    __ptrace_may_access, same_thread_group).  So this function repeats the rule of the kernel.
    """
    status = task_status.status(os.getpid())
    ids = {int(number) for number in status["Uid"].split()}
    groups = {int(number) for number in status["Gid"].split()}
    has_more = int(status["CapPrm"], 16) & ~opener.capabilities
    is_same = (ids, groups) == ({opener.uid}, {opener.gid}) and not has_more
    return opener.may_trace_all or options.exempts(opener) or is_same

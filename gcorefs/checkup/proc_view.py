"""What /proc shows us: nothing of a process that it hides can be in a core."""

import os
from dataclasses import dataclass

from gcorefs.checkup.caller import Caller, Capability
from gcorefs.checkup.finding import Finding, note, ok, problem
from gcorefs.kernel.proc import procfile, tasks
from gcorefs.kernel.proc.mountinfo import parse_mounts
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.hidepid import ProcOptions, parse_options

NOT_OURS = problem(
    "/proc",
    f"{tasks.NOT_OURS}: no process can be found",
    "mount -t proc proc /proc (unshare has --mount-proc for that)",
)
"""The only finding if tasks.is_ours is false."""


@dataclass(frozen=True, slots=True)
class ProcView:
    options: ProcOptions
    is_subset: bool = False
    """subset=pid: /proc has no files that belong to no process."""
    is_member: bool = False
    """We are in the group of gid=."""


def is_subset(mountinfo: bytes) -> bool:
    """True if the last mount of /proc has subset=pid (proc(5)).  FormatError."""
    options = [mount.options for mount in parse_mounts(mountinfo) if mount.place == b"/proc"]
    return bool(options) and b"subset=pid" in options[-1].split(b",")


def ask_proc_view() -> ProcView:
    try:
        text = procfile.read("self/mountinfo")
        options = parse_options(text)
        is_member = options.gid in (os.getegid(), *os.getgroups())
        return ProcView(options, is_subset(text), is_member)
    except (OSError, FormatError):
        return ProcView(ProcOptions())


def proc_view(facts: ProcView, caller: Caller) -> list[Finding]:
    found = []
    if facts.options.hides and not caller.has(Capability.SYS_PTRACE):
        hidden = f"hidepid={facts.options.hidepid} hides processes that you may not trace"
        if facts.is_member and facts.options.hidepid not in ("ptraceable", "4"):
            found.append(ok("/proc", f"{hidden}, but not from you: you are in the group of gid="))
        else:
            found.append(note("/proc", hidden, "run it as root"))
    if facts.is_subset:
        found.append(
            note(
                "/proc",
                "subset=pid hides meminfo, locks and sys: leases are not known, so a memfd is "
                "read like any other memory; a copy must fit into memory that is unused now",
                "mount /proc without subset=pid for gcorefs",
            )
        )
    return found or [ok("/proc", "it shows every process of this pid namespace")]

"""Whether something can be mounted.  `gcorefs dump` needs none of this."""

import os
import shutil
from dataclasses import dataclass

from gcorefs.checkup.caller import Caller, Capability
from gcorefs.checkup.finding import Finding, note, ok

DEVICE = "/dev/fuse"
_CONFIGURATION = "/etc/fuse.conf"


@dataclass(frozen=True, slots=True)
class Fuse:
    why_not_open: str | None
    """Why the device cannot be opened; None if it can."""
    is_there: bool
    has_fusermount: bool
    allows_other: bool
    """user_allow_other stands in /etc/fuse.conf."""


def allows_other(text: str) -> bool:
    """True if fuse.conf lets users give allow_other (mount.fuse3(8)): a line of its own."""
    return any(line.strip() == "user_allow_other" for line in text.splitlines())


def ask_fuse() -> Fuse:
    why_not = None
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        why_not = str(error.strerror)
    try:
        with open(_CONFIGURATION, encoding="utf-8", errors="replace") as file:
            allows = allows_other(file.read())
    except OSError:
        allows = False
    return Fuse(why_not, os.path.exists(DEVICE), shutil.which("fusermount3") is not None, allows)


def fuse(facts: Fuse, caller: Caller) -> list[Finding]:
    return [_device(facts), *_fusermount(facts, caller), *_other_users(facts, caller)]


def _device(facts: Fuse) -> Finding:
    if not facts.is_there:
        return note(
            "FUSE",
            f"there is no {DEVICE}: nothing can be mounted; gcorefs dump works without",
            "modprobe fuse (docker, podman: --device /dev/fuse)",
        )
    if facts.why_not_open is not None:
        return note(
            "FUSE",
            f"{DEVICE} cannot be opened: {facts.why_not_open}; gcorefs dump works without",
            f"chmod 666 {DEVICE} (docker, podman: --device /dev/fuse)",
        )
    return ok("FUSE", f"{DEVICE} can be opened")


def _fusermount(facts: Fuse, caller: Caller) -> list[Finding]:
    if facts.has_fusermount:
        return [ok("fusermount3", "it is installed")]
    lost = "gcorefs umount does not work"
    if not caller.has(Capability.SYS_ADMIN):
        lost = "only root can mount"
    return [note("fusermount3", f"it is not installed: {lost}", "apt-get install fuse3")]


def _other_users(facts: Fuse, caller: Caller) -> list[Finding]:
    if caller.uid == 0:
        return []  # fusermount.c, check_nonroot_fs: the file does not concern root
    if facts.allows_other:
        return [ok("allow_other", f"{_CONFIGURATION} lets users give it")]
    return [
        note(
            "allow_other",
            f"{_CONFIGURATION} does not let users give it: nobody else can read your mount",
            f"echo user_allow_other >> {_CONFIGURATION}, as root",
        )
    ]

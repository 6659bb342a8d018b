"""What differs between the architectures of a guest: a module for each (amd64.py)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def host_root(cache: Path) -> Path:
    """This machine's own root."""
    return Path("/")


@dataclass(frozen=True)
class Machine:
    debian: str
    """Its name in Debian: the architecture of packages, and the end of a kernel's name."""
    uname: str
    """Its name in uname(2).  On a host of the same name, KVM may run it."""
    qemu: tuple[str, ...]
    """The emulator, and what kind of computer it emulates."""
    console: str
    emulated_cpu: str = "max"
    """A model of qemu with all that it can emulate."""
    append: str = ""
    """Options of the kernel."""
    root: Callable[[Path], Path] = host_root
    """The root of its guests, made below the given folder if it is not the host's own.  It has
    busybox, and this tree at the same path as here."""

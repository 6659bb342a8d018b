"""What differs between the architectures of a guest.  They have Debian's names."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    debian: str
    """Its name in Debian: the architecture of packages, and the end of a kernel's name."""
    qemu: tuple[str, ...]
    """The emulator, and what kind of computer it emulates."""
    console: str
    append: str
    """Options of the kernel."""


MACHINES = {
    machine.debian: machine
    for machine in (
        Machine(
            debian="amd64",
            qemu=("qemu-system-x86_64", "-machine", "q35"),
            console="ttyS0",
            # Without "reliable" an emulated TSC is found unstable.  Then the vDSO makes a real
            # clock_gettime(2), and seccomp filters of our targets do not allow that.
            append="tsc=reliable",
        ),
    )
}

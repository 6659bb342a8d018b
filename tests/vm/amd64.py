"""Debian's amd64."""

from tests.vm.machines import Machine

MACHINE = Machine(
    debian="amd64",
    uname="x86_64",
    qemu=("qemu-system-x86_64", "-machine", "q35"),
    console="ttyS0",
    # Without "reliable" an emulated TSC is found unstable.  Then the vDSO makes a real
    # clock_gettime(2), and seccomp filters of our targets do not allow that.
    append="tsc=reliable",
)

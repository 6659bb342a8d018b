"""Runs tests under another kernel: one of Debian's own, in qemu.

The guest's root file system is this machine's, read-only, under an overlay: the guest has the same
programs and the same tests, and what it writes is gone when it ends.

    machines.py   what differs between the architectures
    amd64.py      one of them
    arm64.py      another one, whose guests have a root of their own
    kernels.py    fetches a kernel with apt, and unpacks it
    initramfs.py  what a kernel needs to get at the root
    init          the first program of the guest: it mounts the root
    guest         the second one: it prepares the system and runs the command
    qemu.py       starts the guest, bounds its time and returns its status
"""

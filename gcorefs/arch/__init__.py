"""What differs between machines: one module for each, behind `machine.Machine`.

machine  what a machine is: registers, their notes, how its system calls are restarted
page     the size of a page
x86_64   processes of 64 bits there
i386     processes of 32 bits there
x86_calls  the system calls of both, by number
xsave    where the vector registers of both lie
cpuid    what the processor says of itself
aarch64  a machine that this has not yet run on

Nothing else in gcorefs names a register, a number of a system call or the size of a page.
"""

import os

from gcorefs.arch import aarch64, x86_64
from gcorefs.arch.i386 import I386
from gcorefs.arch.machine import Host, Machine
from gcorefs.arch.x86_64 import X86_64

MACHINES = {("x86_64", False): X86_64, ("x86_64", True): I386}
"""By the name that uname(2) gives, and whether the process is a 32-bit one."""

HOST: Host = {"aarch64": aarch64.HOST}.get(os.uname().machine, x86_64.HOST)
"""The machine that gcorefs itself runs on.  uname(2) has other names for x86-64 as well
(personality(2), PER_LINUX32)."""


def machine_of(is_32_bit: bool) -> Machine | None:
    """That of a process here, None where none is known: such a process is refused."""
    return MACHINES.get((os.uname().machine, is_32_bit))

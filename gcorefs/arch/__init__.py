"""The differences between machines: one module for each machine, behind `machine.Machine`.

machine  what a machine is: registers, their notes, how system calls are restarted
page     the page size
x86_64   64-bit processes on x86-64
i386     32-bit processes on x86-64
x86_calls  the numbers of the system calls of both
xsave    the place of the vector registers of both
cpuid    asks the processor about itself
aarch64  a machine on which gcorefs has not run yet

No other part of gcorefs names a register, the number of a system call or the page size.
"""

import os

from gcorefs.arch import aarch64, x86_64
from gcorefs.arch.i386 import I386
from gcorefs.arch.machine import Host, Machine
from gcorefs.arch.x86_64 import X86_64

MACHINES = {("x86_64", False): X86_64, ("x86_64", True): I386}
"""By the machine name of uname(2), and by whether the process is a 32-bit process."""

HOST: Host = {"aarch64": aarch64.HOST}.get(os.uname().machine, x86_64.HOST)
"""The machine on which gcorefs itself runs.  For x86-64, uname(2) can give other names too
(personality(2), PER_LINUX32)."""


def machine_of(is_32_bit: bool) -> Machine | None:
    """The machine of a process here.  None if it is not known: such a process is refused."""
    return MACHINES.get((os.uname().machine, is_32_bit))

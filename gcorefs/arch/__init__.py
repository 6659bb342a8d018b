"""The differences between machines: one module for each machine, behind `machine.Machine`.

machine  what a machine is: registers, their notes, how system calls are restarted
page     the page size
x86_64   64-bit processes on x86-64
i386     32-bit processes on x86-64
x86_calls  the numbers of the system calls of both
xsave    the place of the vector registers of both
x86_injected  how threads of both make system calls for us
x86_saved  a thread of both, as the kernel keeps it while it does not run
xsave_saved  its vector registers
x86_regsets  the register sets of such a thread, as ptrace(2) would give them
cpuid    asks the processor about itself
aarch64  64-bit processes on aarch64
aarch64_calls  the numbers of their system calls
aarch64_host   the facts about such a machine as a host

No other part of gcorefs names a register, the number of a system call or the page size.
"""

import os
import sys

from gcorefs.arch import aarch64_host, x86_64
from gcorefs.arch.aarch64 import AARCH64
from gcorefs.arch.i386 import I386
from gcorefs.arch.machine import Host, Machine
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.arch.x86_64 import X86_64

MACHINES = {
    ("x86_64", False): X86_64,
    ("x86_64", True): I386,
    ("aarch64", False): AARCH64,
}
"""By the machine name of uname(2), and by whether the process is a 32-bit process."""

_UNDER_LINUX32 = {"i686": "x86_64", "armv8l": "aarch64"}
"""The names that uname(2) gives under PER_LINUX32 (personality(2); COMPAT_UTS_MACHINE)."""

_uname = os.uname().machine
NAME = _UNDER_LINUX32.get(_uname, _uname) if sys.maxsize >> 32 else _uname
"""The machine on which gcorefs itself runs, as uname(2) names it."""

HOST: Host = aarch64_host.host() if NAME == "aarch64" else x86_64.HOST
"""What it is for gcorefs itself."""


def machine_of(is_32_bit: bool) -> Machine | None:
    """The machine of a process here.  None: such a process is refused, and `why_foreign` says
    why."""
    if PAGE_SIZE not in HOST.page_sizes:
        return None
    return MACHINES.get((NAME, is_32_bit))


def why_foreign(is_32_bit: bool) -> str:
    """What it is that no process, or no such process, is handled for."""
    if PAGE_SIZE not in HOST.page_sizes:
        return f"{NAME}, with pages of {PAGE_SIZE} bytes"
    return f"{NAME}, {32 if is_32_bit else 64} bits"

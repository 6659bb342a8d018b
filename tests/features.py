"""What a kernel may lack.  A test asks for the feature that it needs, never for a version, and is
skipped without it."""

import ctypes
import errno
import functools
import os
import subprocess
import sys

import pytest

from gcorefs.kernel import soft_dirty
from gcorefs.process.guards import Guards, guards_of_this_kernel
from gcorefs.process.pagemap import Pagemap, scans_guards


def has_pagemap_scan() -> bool:
    return Pagemap(os.getpid()).scan(0x10000, 0x11000) is not None


def needs_pagemap_scan() -> None:
    if not has_pagemap_scan():
        pytest.skip("the kernel has no PAGEMAP_SCAN")


def needs_guards() -> None:
    if guards_of_this_kernel() is Guards.NONE:
        pytest.skip("the kernel has no MADV_GUARD_INSTALL")


def needs_guards_in_pagemap_scan() -> None:
    if not scans_guards():
        pytest.skip("the kernel's PAGEMAP_SCAN does not know guards")


def needs_soft_dirty() -> None:
    if not soft_dirty.is_supported():
        pytest.skip("the kernel does not mark the pages that a process writes (soft-dirty)")


_NEW_CALLS = {
    "landlock_create_ruleset": 444,
    "getxattrat": 464,
    "listxattrat": 465,
    "file_getattr": 468,
}
"""System calls that Debian's oldest kernel lacks.  All machines have the same numbers for them."""


def needs_call(name: str) -> None:
    """Skip the test if the kernel lacks this system call.  A name that is not new is never asked
    for."""
    number = _NEW_CALLS.get(name)
    if number is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.syscall(number, -1, None, 0, None, None, 0) < 0
    if failed and ctypes.get_errno() in (errno.ENOSYS, errno.EOPNOTSUPP):
        pytest.skip(f"the kernel has no {name}(2)")


@functools.cache
def _why_no_bpf(field: str) -> str:
    script = f"from gcorefs.sources import bpf_choice; print(bpf_choice.choose('auto').{field})"
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def why_no_bpf() -> str:
    """Why mappings cannot come from BPF here; empty if they can."""
    return _why_no_bpf("why_not")


def needs_bpf() -> None:
    if why := why_no_bpf():
        pytest.skip(why)


def why_no_bpf_registers() -> str:
    """The same for the registers of threads that sleep."""
    return _why_no_bpf("why_no_registers")


def needs_bpf_registers() -> None:
    if why := why_no_bpf_registers():
        pytest.skip(why)

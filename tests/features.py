"""What a kernel may lack.  A test asks for the feature that it needs, never for a version, and is
skipped without it."""

import ctypes
import errno
import functools
import os
import subprocess
import sys

import pytest

from gcorefs.process.pagemap import Pagemap


def has_pagemap_scan() -> bool:
    return Pagemap(os.getpid()).scan(0x10000, 0x11000) is not None


def needs_pagemap_scan() -> None:
    if not has_pagemap_scan():
        pytest.skip("the kernel has no PAGEMAP_SCAN")


_NEW_CALLS = {"getxattrat": 464, "listxattrat": 465, "file_getattr": 468}
"""System calls that Debian's oldest kernel lacks.  All machines have the same numbers for them."""


def needs_call(name: str) -> None:
    """Skip the test if the kernel lacks this system call.  A name that is not new is never asked
    for."""
    number = _NEW_CALLS.get(name)
    if number is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, -1, None, 0, None, None, 0) < 0 and ctypes.get_errno() == errno.ENOSYS:
        pytest.skip(f"the kernel has no {name}(2)")


@functools.cache
def why_no_bpf() -> str:
    """Why mappings cannot come from BPF here; empty if they can."""
    script = "from gcorefs.sources import mappings; print(mappings.choose('auto').why_not)"
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def needs_bpf() -> None:
    if why := why_no_bpf():
        pytest.skip(why)

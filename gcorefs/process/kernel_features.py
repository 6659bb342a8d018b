"""Features of the kernel that change what gcorefs does (docs/kernels.md).  Each is tried, because a
version number does not show what was backported or disabled."""

import functools
import mmap
import os

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel import own_memory, soft_dirty
from gcorefs.kernel.pagemap_scan import PRESENT
from gcorefs.kernel.proc import map_files
from gcorefs.process import readv
from gcorefs.process.guards import Guards, guards_of_this_kernel
from gcorefs.process.pagemap import open_pagemap, scans_guards, shows_page_frames


@functools.cache
def kernel_features() -> dict[str, bool]:
    """By name, whether this process can use them."""
    try:
        pagemap = open_pagemap(os.getpid())
        can_scan = pagemap.scan(0, PAGE_SIZE, all_of=PRESENT) is not None
    except OSError:
        can_scan = False
    guards = guards_of_this_kernel()
    return {
        "PAGEMAP_SCAN": can_scan,
        "page frames in pagemap": shows_page_frames(),
        "MADV_GUARD_INSTALL": guards is not Guards.NONE,
        "guards in PAGEMAP_SCAN": scans_guards(),
        "guards in VmFlags": guards is Guards.SHOWN,
        "memfd_secret": map_files.secretmem_device() is not None,
        "MADV_POPULATE_WRITE": _populates(),
        "soft-dirty": soft_dirty.is_supported(),
        "process_vm_readv": not readv.is_denied(),
    }


def _populates() -> bool:
    with mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            own_memory.populate(memoryview(memory))
        except OSError:
            return False
    return True

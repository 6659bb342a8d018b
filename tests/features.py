"""What a kernel may lack.  A test asks for the feature that it needs, never for a version, and is
skipped without it."""

import os

import pytest

from gcorefs.process.pagemap import Pagemap


def has_pagemap_scan() -> bool:
    return Pagemap(os.getpid()).scan(0x10000, 0x11000) is not None


def needs_pagemap_scan() -> None:
    if not has_pagemap_scan():
        pytest.skip("the kernel has no PAGEMAP_SCAN")

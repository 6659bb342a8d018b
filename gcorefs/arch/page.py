"""The page size.  No other place knows it."""

import os

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
"""Bytes of a page, as the kernel here has them (sysconf(3), getauxval(3) AT_PAGESZ): 4096 on x86;
4, 16 or 64 KiB on aarch64, whichever the kernel is built for."""

HUGE_PAGE_SIZE = PAGE_SIZE // 8 * PAGE_SIZE
"""Bytes of a transparent huge page: all pages in one table of page table entries, 8 bytes each
(include/linux/huge_mm.h, HPAGE_PMD_SIZE)."""

"""The page size comes from the kernel: one value, in one place."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Simulates a kernel with larger pages; then lays out two mappings of one page each.
LARGER_PAGES = """
import os, sys
size, sysconf = int(sys.argv[1]), os.sysconf
os.sysconf = lambda name: size if name == "SC_PAGE_SIZE" else sysconf(name)

from array import array
from gcorefs.arch.x86_64 import X86_64
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.header_store import Pieces
from gcorefs.elfcore.loads import load
from gcorefs.elfcore.segments import Segment, Segments

loads = load(Segments.of([Segment(size * number, size, size, 6) for number in (1, 3)]))
layout = Layout(X86_64, loads, Pieces([b"note"]))
sys.stdout.buffer.write(bytes(layout.header[:]))
print(len(layout.header), layout.size, page_up(1), file=sys.stderr)
"""


@pytest.mark.parametrize("size", [4096, 16384, 65536])
def test_a_core_is_laid_out_in_pages_of_the_kernel(size: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGER_PAGES, str(size)], capture_output=True, check=True
    )
    assert [int(word) for word in done.stderr.split()] == [size, 3 * size, size]
    # Elf64_Phdr: type, flags, offset, vaddr, paddr, filesz, memsz, align.
    headers = struct.iter_unpack("<2I6Q", done.stdout[64 : 64 + 3 * 56])
    assert [header for header in headers if header[0] == 1] == [
        (1, 6, size, size, 0, size, size, size),
        (1, 6, 2 * size, 3 * size, 0, size, size, size),
    ]


ANOTHER_PLACE = re.compile(r"SC_PAGE_?SIZE|PAGE_SIZE *= *\(?\d|mmap\.PAGESIZE|getpagesize")


def test_no_other_place_asks_for_it() -> None:
    paths = (ROOT / "gcorefs").rglob("*.py")
    found = [path for path in paths if ANOTHER_PLACE.search(path.read_text())]
    assert found == [ROOT / "gcorefs/arch/page.py"]

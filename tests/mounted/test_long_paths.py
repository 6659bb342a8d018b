"""A process whose mapped files lie deep below more directories than a path may name.

/proc shows their paths whole (fs/seq_file.c, seq_path), so a few thousand mappings have hundreds of
megabytes of maps.  Neither a stat(2), which any user may make, nor a core takes memory for that.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_status
from tests.conftest import Mount
from tests.mounted.conftest import eventually, is_free, most_memory_of, opened, running, whole

LEVELS = 120
MAPPINGS = 8000
TEXT = LEVELS * 255 * MAPPINGS
MOST = TEXT // 2
"""Bytes that the server may take meanwhile: 64 MiB of text, twice."""

PROGRAM = f"""
import mmap, os, signal
for _ in range({LEVELS}):
    os.mkdir("d" * 255)
    os.chdir("d" * 255)
file = os.open("file", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 4096)
all = [mmap.mmap(file, 4096, prot=mmap.PROT_READ) for _ in range({MAPPINGS})]
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[int]:
    """The pid of such a process."""
    here = tmp_path / "deep"
    here.mkdir()
    try:
        with running("env", "-C", here, sys.executable, "-c", PROGRAM) as pid:
            yield pid
    finally:
        shutil.rmtree(here)


def most_of(pid: int) -> int:
    """Bytes of memory that a process has had at one time."""
    return int(task_status.status(pid)["VmHWM"].split()[0]) << 10


def test_its_paths_take_no_memory_of_the_server(mount: Mount, deep: int) -> None:
    before = most_of(mount.server)
    assert os.stat(mount / deep).st_size > 0
    with opened(mount / deep) as fd:
        assert whole(fd).startswith(b"\x7fELF")
    assert most_of(mount.server) - before < MOST
    eventually(partial(is_free, deep))


def test_its_paths_take_no_memory_of_a_command(deep: int) -> None:
    assert most_memory_of("info", deep) < MOST
    assert is_free(deep)

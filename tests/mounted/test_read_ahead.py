"""Reading ahead takes a limited amount of memory, however many files are read."""

import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import task_stat
from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, is_free, memory_offset, offset_of, opened, whole

MIB = 1 << 20
FILES = 80
READ = 3
"""MiB to read of each: enough to start reading ahead."""

# Opens a file many times, and reads the same range of each by 1 MiB at a time, in turn.
READ_MANY = """
import os, sys
path, files, offset, expected = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
with open(expected, "rb") as file:
    expected = file.read()
fds = [os.open(path, os.O_RDONLY) for _ in range(files)]
wrong = 0
for start in range(0, len(expected), 1 << 20):
    for fd in fds:
        part = os.pread(fd, 1 << 20, offset + start)
        wrong += part != expected[start : start + len(part)] or len(part) != 1 << 20
print(wrong, flush=True)
sys.stdin.read()
"""


def resident(pid: int) -> int:
    """Bytes of resident memory."""
    return task_stat.stat(pid).resident * PAGE_SIZE


def test_many_files_of_one_user_are_read_with_little_memory(
    mount: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("bulk", 24)
    expected = tmp_path / "expected"
    # target.h, canary
    numbers = range(0, READ * MIB, 8)
    expected.write_bytes(array("Q", [0x9E3779B97F4A7C15 * (n + 1) % 2**64 for n in numbers]))
    with opened(mount / target.pid) as fd:
        header = whole(fd)[: 1 << 16]
    assert memory_offset(header) < len(header)
    eventually(lambda: is_free(target.pid))
    offset = offset_of(header, int(target.truth["start"], 16))
    before = resident(mount.server)
    words = map(str, (mount / target.pid, FILES, offset, expected))
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", READ_MANY, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"0\n"
        # The windows of one user, and the buffers that are kept for reuse.
        assert resident(mount.server) - before < (64 + 32 + 32) * MIB
        reader.communicate(timeout=20)
    eventually(lambda: is_free(target.pid))

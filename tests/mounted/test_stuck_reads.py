"""A read that cannot end costs its reader an EIO, and nobody else anything."""

import errno
import os
from collections.abc import Callable

from elftools.elf.elffile import ELFFile

from tests.conftest import Mount, Target
from tests.mounted.conftest import errno_of, eventually, is_free, opened

PAGE = 4096
READERS = 100


def read_in_a_child(fd: int, offset: int) -> int:
    child = os.fork()
    if child == 0:
        os._exit(errno_of(lambda: os.pread(fd, 8, offset)))
    return child


def test_a_page_whose_handler_is_stopped_is_an_error(
    spawn: Callable[..., Target], mount: Mount
) -> None:
    target, other = spawn("uffd"), spawn("threads", 1)
    mount.expect(f"process {target.pid}: its memory could not be read in time")
    with opened(mount / target.pid) as fd, opened(mount / other.pid) as other_fd:
        with open(fd, "rb", closefd=False) as file:
            start = int(target.truth["start"], 16)
            segments = list(ELFFile(file).iter_segments())
        offset = next(s["p_offset"] for s in segments if s["p_vaddr"] == start)
        readers = [read_in_a_child(fd, offset + PAGE) for _ in range(READERS)]
        # While that one waits: the same process, and another.
        for _ in range(100):
            assert os.pread(fd, 4, 0) == b"\x7fELF"
            assert os.pread(other_fd, 4, os.fstat(other_fd).st_size - PAGE)
            assert os.stat(mount / other.pid).st_size > 0
        for reader in readers:
            assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == errno.EIO
        assert os.pread(fd, 4, 0) == b"\x7fELF"
    eventually(lambda: is_free(target.pid))
    for page in range(target.truth["pages"]):
        assert int(target.ask(f"touch {page}")["word"], 16) == start + page * PAGE

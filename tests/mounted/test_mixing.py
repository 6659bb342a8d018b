"""A file whose process was let go, and the file of the next open: neither ever has a byte of the
other, however it is read."""

import errno
import mmap
import os
import signal
from collections.abc import Callable
from functools import partial

import pytest
from elftools.elf.elffile import ELFFile

from tests.conftest import Mount, Target
from tests.mounted.conftest import errno_of, eventually, is_free, is_held, opened

PAGE = 4096
LENGTH = 4 * PAGE


def by_read(fd: int, offset: int) -> bytes:
    return os.pread(fd, PAGE, offset)


def by_splice(fd: int, offset: int) -> bytes:
    reading, writing = os.pipe()
    try:
        assert os.splice(fd, writing, PAGE, offset_src=offset) == PAGE
        return os.read(reading, PAGE)
    finally:
        os.close(reading)
        os.close(writing)


def by_sendfile(fd: int, offset: int) -> bytes:
    out = os.memfd_create("out")
    try:
        assert os.sendfile(out, fd, offset, PAGE) == PAGE
        return os.pread(out, PAGE, 0)
    finally:
        os.close(out)


def by_mmap(fd: int, offset: int) -> bytes:
    """In a child, because EIO is SIGBUS there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        with mmap.mmap(fd, PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=offset) as memory:
            os.write(writing, memory[:])
        os._exit(0)
    os.close(writing)
    data = os.read(reading, PAGE)
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGBUS:
        raise OSError(errno.EIO, "SIGBUS")
    assert status == 0
    return data


WAYS = [by_read, by_splice, by_sendfile, by_mmap]


def offset_of(fd: int, address: int) -> int:
    with open(fd, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        for segment in ELFFile(file).iter_segments():
            start = segment["p_vaddr"]
            if segment["p_type"] == "PT_LOAD" and start <= address < start + segment["p_filesz"]:
                return int(segment["p_offset"]) + address - int(start)
    raise LookupError(hex(address))


def word(number: int) -> bytes:
    return number.to_bytes(8, "little")


@pytest.mark.parametrize("option", ["idle_timeout=1", "max_stop=3"])
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_old_and_new_never_mix(
    spawn: Callable[..., Target],
    mount_with: Callable[..., Mount],
    way: Callable[[int, int], bytes],
    warm: bool,
    option: str,
) -> None:
    mount = mount_with(option)
    target = spawn("mapper")
    start = int(target.ask(f"map /dev/zero {LENGTH} 0")["start"], 16)
    target.ask(f"put {start:x} 1")
    mount.expect(f"process {target.pid}: let go")
    mount.expect(f"process {target.pid}: the process was let go")
    with opened(mount / target.pid) as old:
        offset = offset_of(old, start)
        header = way(old, 0)
        assert header[:4] == b"\x7fELF"
        if warm:
            assert way(old, offset)[:8] == word(1)
        eventually(lambda: is_free(target.pid))
        number = os.fstat(old).st_ino
        target.ask(f"put {start:x} 2")
        with opened(mount / target.pid) as new:
            assert os.fstat(new).st_ino != number == os.fstat(old).st_ino
            assert offset_of(new, start) == offset
            assert is_held(target.pid)
            for each in WAYS:
                assert each(new, offset)[:8] == word(2)
                assert_of_the_old_stop(each, old, offset)
                assert each(old, 0) == header
                assert each(new, offset)[:8] == word(2)
        eventually(lambda: is_free(target.pid))
    assert target.ask(f"peek {start:x}") == {"word": "0x2"}


def assert_of_the_old_stop(way: Callable[[int, int], bytes], fd: int, offset: int) -> None:
    """Its byte, if the page cache has it; else EIO; never zeros, never the new byte."""
    try:
        data = way(fd, offset)
    except OSError as error:
        assert error.errno == errno.EIO
    else:
        assert way is not by_read
        assert data == word(1) + bytes(PAGE - 8)


def test_a_mapping_of_what_was_let_go_is_sigbus(
    spawn: Callable[..., Target], mount_with: Callable[..., Mount]
) -> None:
    mount = mount_with("idle_timeout=0.3")
    target = spawn("mapper")
    mount.expect(f"process {target.pid}: let go")
    mount.expect(f"process {target.pid}: the process was let go")
    with opened(mount / target.pid) as fd:
        size = os.fstat(fd).st_size
        eventually(lambda: is_free(target.pid))
        assert by_mmap(fd, 0)[:4] == b"\x7fELF"
        last = size - PAGE
        for way in WAYS:
            assert errno_of(partial(way, fd, last)) == errno.EIO

"""Pages that cannot be had cost one page each and are told; untouched pages stay so."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

from elftools.elf.elffile import ELFFile

from gcorefs.process import procfs
from gcorefs.snapshot import Snapshot, find
from tests.conftest import Target

PAGE = 4096
UNREADABLE = ("guard", "file_short_past_eof")


def unreadable_after_reading_all(target: Target) -> int:
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        buffer = memoryview(bytearray(1 << 20))
        offset = 0
        while count := snapshot.read_into(offset, buffer):
            offset += count
        assert offset == snapshot.size
        return snapshot.unreadable
    finally:
        snapshot.close()


def test_what_only_the_kernel_can_read_is_no_loss(spawn: Callable[..., Target]) -> None:
    # [vvar] and [vsyscall] are in every core, and zeros in every core.
    assert unreadable_after_reading_all(spawn("threads", 1)) == 0


def test_unreadable_pages_are_counted(spawn: Callable[..., Target], tmp_path: Path) -> None:
    target = spawn("memory", tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    regions = {region["name"]: region for region in target.truth["regions"]}
    pages = sum(
        (int(regions[name]["end"], 16) - int(regions[name]["start"], 16)) // PAGE
        for name in UNREADABLE
    )
    assert pages > 0
    assert unreadable_after_reading_all(target) == pages


def footprint(pid: int) -> dict[str, bytes]:
    status = procfs.status(pid)
    return {key: status[key] for key in ("VmRSS", "VmPTE", "RssAnon", "RssShmem", "VmSwap")}


def test_untouched_memory_stays_untouched(spawn: Callable[..., Target]) -> None:
    target = spawn("holes")
    target.ask("ping")  # whatever it needs to read a line, it has from here on
    before = footprint(target.pid)
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        segments = {segment.vaddr: segment for segment in snapshot.layout.segments}
        for region in target.truth["regions"]:
            start, size = int(region["start"], 16), region["size"]
            assert segments[start].filesz == size, region
            offset = offset_of(snapshot, start)
            data = snapshot.read(offset, size)
            for page in range(0, size, PAGE):
                written = page // PAGE in region["pages"]
                expected = struct.pack("<Q", start + page) if written else bytes(8)
                assert data[page : page + PAGE] == expected.ljust(PAGE, b"\0"), (region, page)
    finally:
        snapshot.close()
    assert footprint(target.pid) == before


def offset_of(snapshot: Snapshot, vaddr: int) -> int:
    core = ELFFile(io.BytesIO(snapshot.layout.header))
    return next(s["p_offset"] for s in core.iter_segments() if s["p_vaddr"] == vaddr)

"""Pages that cannot be had: one bad page costs one page, and is told."""

from collections.abc import Callable
from pathlib import Path

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

"""smaps as mappings: every field as the kernel wrote it, or a MapsError and no other error."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.elfcore.elf import PF_R, PF_W, PF_X
from gcorefs.elfcore.smaps import parse_pieces, parse_smaps, vm_flags
from gcorefs.elfcore.vma import MapsError, Vma, VmFlag
from tests.pure.smaps import FLAGS, KEYS, Shape, entry, make_vma, permissions, shapes, vma_lists


def parse_or_refuse(text: bytes) -> list[Vma] | None:
    """None for refused text; any other exception fails the test."""
    try:
        return parse_smaps(text)
    except MapsError as error:
        assert str(error)
        assert "\n" not in str(error)
        return None


@given(vma_lists(), shapes)
def test_every_field_comes_back(vmas: list[Vma], shape: Shape) -> None:
    assert parse_smaps(b"".join(entry(vma, shape) for vma in vmas)) == vmas


@given(vma_lists(), shapes, st.data())
def test_it_does_not_matter_how_the_text_is_cut(
    vmas: list[Vma], shape: Shape, data: st.DataObject
) -> None:
    text = b"".join(entry(vma, shape) for vma in vmas)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    borders = [0, *cuts, len(text)]
    assert parse_pieces(text[low:high] for low, high in pairwise(borders)) == vmas


@given(st.lists(st.sampled_from(sorted(KEYS)), min_size=2, max_size=6))
def test_entries_may_have_other_keys_than_those_before(keys: list[str]) -> None:
    vmas = [
        make_vma(number << 12, (number + 1) << 12, anonymous=number << 10, swapped=number << 12)
        for number in range(len(keys))
    ]
    shaped = zip(vmas, keys, strict=True)
    assert parse_smaps(b"".join(entry(vma, Shape(key)) for vma, key in shaped)) == vmas


@pytest.mark.parametrize("old", [b"Rss:", b"KSM:", b"SwapPss:", b"Size:", b"Locked:"])
@pytest.mark.parametrize("new", [b"rss:", b"Rss", b"", b"1000-2000 r--p 0 0:0 0\n"])
def test_a_later_entry_with_a_malformed_line_is_refused(old: bytes, new: bytes) -> None:
    first, second = entry(make_vma()), entry(make_vma(0x8000, 0x9000))
    assert len(parse_smaps(first + second)) == 2
    with pytest.raises(MapsError):
        parse_smaps(first + second.replace(b"\n" + old, b"\n" + new, 1))


@pytest.mark.parametrize("keys", KEYS)
def test_every_flag_of_every_kernel_is_known(keys: str) -> None:
    vma = make_vma(vm_flags=vm_flags(FLAGS))
    assert parse_smaps(entry(vma, Shape(keys))) == [vma]


def test_a_process_without_memory_has_no_mappings() -> None:
    assert parse_smaps(b"") == []


def test_the_vsyscall_page_of_a_real_text() -> None:
    # As 6.18 writes it: no file, only permission to execute, near the top of memory.
    text = entry(make_vma(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, flags=PF_X, name=b"[vsyscall]"))
    (vma,) = parse_smaps(text.replace(b"VmFlags: ", b"VmFlags: ex "))
    assert (vma.flags, vma.vm_flags, vma.is_special) == (PF_X, VmFlag.EXEC, True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0x3000, 0x4000), (0x1000, 0x2000)),
        ((0x1000, 0x3000), (0x2000, 0x4000)),
        ((0x1000, 0x4000), (0x2000, 0x3000)),
        ((0x1000, 0x2000), (0x1000, 0x2000)),
    ],
)
def test_mappings_out_of_order_or_one_in_another_are_refused(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    text = entry(make_vma(*first)) + entry(make_vma(*second))
    with pytest.raises(MapsError):
        parse_smaps(text)


@pytest.mark.parametrize(
    ("start", "end"), [(0x2000, 0x1000), (0x1000, 0x1000), (0x1001, 0x2000), (0x1000, 0x1FFF)]
)
def test_a_mapping_that_no_kernel_makes_is_refused(start: int, end: int) -> None:
    with pytest.raises(MapsError):
        parse_smaps(entry(make_vma(start, end)))


@given(vma_lists(max_size=3).filter(bool), shapes, st.data())
def test_a_text_cut_short_is_refused(vmas: list[Vma], shape: Shape, data: st.DataObject) -> None:
    entries = [entry(vma, shape) for vma in vmas]
    text = b"".join(entries)
    cut = data.draw(st.integers(0, len(text) - 1))
    borders = {0: 0}
    for count, piece in enumerate(entries, 1):
        borders[max(borders) + len(piece)] = count
    expected = vmas[: borders[cut]] if cut in borders else None
    assert parse_or_refuse(text[:cut]) == expected


@pytest.mark.parametrize("key", ["Anonymous", "Swap", "VmFlags"])
@pytest.mark.parametrize("follower", [b"", entry(make_vma(0x8000, 0x9000))])
def test_an_entry_without_a_key_that_we_need_is_refused(key: str, follower: bytes) -> None:
    lines = entry(make_vma()).splitlines(keepends=True)
    text = b"".join(line for line in lines if not line.startswith(f"{key}:".encode()))
    with pytest.raises(MapsError):
        parse_smaps(text + follower)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(text: bytes) -> None:
    assert parse_or_refuse(text) == (None if text else [])


@settings(max_examples=400)
@given(vma_lists(max_size=3).filter(bool), shapes, st.data())
def test_a_mutated_text_is_refused_or_is_in_order(
    vmas: list[Vma], shape: Shape, data: st.DataObject
) -> None:
    text = b"".join(entry(vma, shape) for vma in vmas)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        piece = data.draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from([b"\n", b"-", b"f", b" kB\n", b"Swap:    1 kB\n", text[:200]]),
            )
        )
        text = text[:start] + piece + text[end:]
    found = parse_or_refuse(text) or []
    assert all(vma.start < vma.end <= 1 << 64 for vma in found)
    assert all(low.end <= high.start for low, high in pairwise(found))


def _plain(line: str) -> tuple[int, int, str, int, str, int, bytes]:
    """One line of maps, divided at its columns."""
    addresses, perms, offset, dev, inode, *name = line.split(maxsplit=5)
    start, end = (int(word, 16) for word in addresses.split("-"))
    path = name[0].encode("utf-8", "surrogateescape") if name else b""
    return start, end, perms, int(offset, 16), dev, int(inode), path


def test_our_own_mappings_are_those_of_maps() -> None:
    maps = Path("/proc/self/maps")
    while True:  # until nothing was mapped between the two reads
        before = maps.read_text("utf-8", "surrogateescape")
        text = Path("/proc/self/smaps").read_bytes()
        if maps.read_text("utf-8", "surrogateescape") == before:
            break
    expected = [_plain(line) for line in before.splitlines()]
    vmas = parse_smaps(text)
    seen = [
        (
            v.start,
            v.end,
            permissions(v, VmFlag.MAYSHARE in v.vm_flags),
            v.offset,
            v.dev,
            v.inode,
            v.name,
        )
        for v in vmas
    ]
    assert seen == expected
    lines = text.splitlines()
    for key, sizes in {
        b"Anonymous:": [vma.pages.anonymous for vma in vmas],
        b"Swap:": [vma.pages.swapped for vma in vmas],
        b"Size:": [vma.size for vma in vmas],
    }.items():
        assert sizes == [int(line.split()[1]) * 1024 for line in lines if line.startswith(key)]


def test_our_own_mappings_are_named_as_we_know_them() -> None:
    special = {
        vma.name for vma in parse_smaps(Path("/proc/self/smaps").read_bytes()) if vma.is_special
    }
    assert b"[vdso]" in special
    assert special <= {b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[vsyscall]"}


@pytest.mark.parametrize(
    ("name", "inode", "has_file", "is_special"),
    [
        (b"", 0, False, False),
        (b"[heap]", 0, False, False),
        (b"[stack]", 0, False, False),
        (b"[anon:jemalloc]", 0, False, False),
        (b"[anon:vdso]", 0, False, False),
        # Shared anonymous memory named by PR_SET_VMA_ANON_NAME: the name hides /dev/zero.
        (b"[anon_shmem:x]", 12, True, False),
        (b"[vdso]", 0, False, True),
        (b"[vvar]", 0, False, True),
        (b"[vvar_vclock]", 0, False, True),
        (b"[vsyscall]", 0, False, True),
        (b"[uprobes]", 0, False, True),
        # The path of a file begins with a slash, whatever its name is.
        (b"/[vdso]", 12, True, False),
        (b"/[heap]", 12, True, False),
        (b"/[aio] (deleted)", 12, True, False),
        (b"/x", 0, True, False),
        (b"anon_inode:[io_uring]", 1057, True, False),
        (b"socket:[4711]", 4711, True, False),
    ],
)
def test_the_kernel_s_own_mappings_and_files_are_told_by_name_and_inode(
    name: bytes, inode: int, has_file: bool, is_special: bool
) -> None:
    vma = make_vma(name=name, inode=inode, flags=PF_R | PF_W)
    assert (vma.has_file, vma.is_special) == (has_file, is_special)


@pytest.mark.parametrize("flag", ["sh", "ms", "ht", "io", "pf", "mm", "dd", "gu", "um", "ui", "uw"])
def test_memory_with_more_questions_is_not_plain(flag: str) -> None:
    usual = vm_flags(["rd", "wr", "mr", "mw", "me", "ac", "sd"])
    for name in (b"", b"[heap]", b"[stack]", b"[anon:x]"):
        assert make_vma(name=name, vm_flags=usual).kind.is_plain
        assert not make_vma(name=name, vm_flags=usual | vm_flags([flag])).kind.is_plain
    assert not make_vma(name=b"[vvar]", vm_flags=usual).kind.is_plain
    assert not make_vma(name=b"/x", inode=7, vm_flags=usual).kind.is_plain

"""How large a core can be, from the lines of /proc/PID/maps and a few counters."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore import estimate
from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.estimate import Counters, Estimate, MappedFile, Surroundings
from gcorefs.elfcore.loads import most_bytes
from gcorefs.elfcore.patterns import patterns
from gcorefs.elfcore.vma import MapsError
from gcorefs.look import counters_are_behind

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096
SHMEM = b"00:01"
REGISTERS = 3000
SURROUNDINGS = Surroundings(REGISTERS, SHMEM, keeps_lost_files=True)

PROGRAM = b"""\
400000-401000 r--p 00000000 fe:00 7                                      /bin/program
401000-501000 r-xp 00001000 fe:00 7                                      /bin/program
501000-581000 r--p 00101000 fe:00 7                                      /bin/program
581000-583000 r--p 00181000 fe:00 7                                      /bin/program
583000-587000 rw-p 00183000 fe:00 7                                      /bin/program
"""
HEADER, RELRO_AND_DATA = PAGE, 0x6000
TEXT = 0x100000
ALL_OF_IT = 0x187000


@dataclass(frozen=True)
class File:
    links: int = 0
    size: int = 0
    allocated: int = 0


class Parts:
    """The inputs of an estimate: the arguments of most_bytes, and other facts."""

    def __init__(self, sums: tuple[int, int, int, int, int], most: int) -> None:
        self.populated, self.sparse, self.whole, self.mappings, self.undivided = sums
        self.notes = most - most_bytes(*sums)
        self.most = most


@pytest.fixture
def reckon(monkeypatch: pytest.MonkeyPatch) -> "Reckon":
    return Reckon(monkeypatch)


class Reckon:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sums: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
        monkeypatch.setattr(estimate, "most_bytes", self._most_bytes)

    def _most_bytes(self, *sums: int) -> int:
        self._sums = sums  # type: ignore[assignment]
        return most_bytes(*sums)

    def __call__(
        self,
        maps: bytes,
        mask: int = rules.DEFAULT,
        mapped: int = 0,
        anonymous: int = 0,
        huge: int = 0,
        file: MappedFile | None = None,
        surroundings: Surroundings = SURROUNDINGS,
    ) -> Parts:
        counters = Counters(1, mapped, anonymous, huge)
        most = Estimate(mask, counters, surroundings, lambda *_: file).of([maps])
        return Parts(self._sums, most)


def test_of_a_program_what_was_written_and_a_page_of_text_are_in_it(reckon: Reckon) -> None:
    # All of .data, and the part of it that the dynamic linker wrote and then protected.  Not the
    # read-only data before it, which looks the same but never was one mapping with it.
    parts = reckon(PROGRAM, mapped=ALL_OF_IT)
    assert (parts.whole, parts.sparse, parts.mappings) == (HEADER + RELRO_AND_DATA, 0, 5)


@pytest.mark.parametrize(
    ("mask", "whole"),
    [
        (0, 0),
        (rules.ELF_HEADERS, HEADER),
        (rules.ANON_PRIVATE, RELRO_AND_DATA),
        (rules.MAPPED_PRIVATE, ALL_OF_IT),
        (rules.DAX_PRIVATE, ALL_OF_IT),  # the file may be of this kind
        (rules.MAPPED_SHARED | rules.ANON_SHARED | rules.DAX_SHARED, 0),
    ],
)
def test_the_mask_decides(reckon: Reckon, mask: int, whole: int) -> None:
    assert reckon(PROGRAM, mask, mapped=ALL_OF_IT).whole == whole


def test_what_a_probe_may_have_written_into_is_in_it(reckon: Reckon) -> None:
    probes = b"7ffff000-80000000 --xp 00000000 00:00 0                          [uprobes]\n"
    parts = reckon(PROGRAM + probes, mapped=ALL_OF_IT + PAGE)
    assert parts.whole == HEADER + RELRO_AND_DATA + TEXT + PAGE


@pytest.mark.parametrize("keeps", [True, False])
def test_a_deleted_file_is_in_it_if_the_policy_wants_it(reckon: Reckon, keeps: bool) -> None:
    deleted = PROGRAM.replace(b"/bin/program\n", b"/bin/program (deleted)\n")
    surroundings = SURROUNDINGS._replace(keeps_lost_files=keeps)
    parts = reckon(deleted, mapped=ALL_OF_IT, surroundings=surroundings)
    assert parts.whole == (ALL_OF_IT if keeps else HEADER + RELRO_AND_DATA)


@pytest.mark.parametrize("mask", [0, rules.ELF_HEADERS])
def test_code_is_in_it_if_the_policy_wants_it(reckon: Reckon, mask: int) -> None:
    surroundings = SURROUNDINGS._replace(has_text=True)
    parts = reckon(PROGRAM, mask, mapped=ALL_OF_IT, surroundings=surroundings)
    assert parts.whole == TEXT + (HEADER if mask else 0)


@pytest.mark.parametrize("mask", [rules.ELF_HEADERS, rules.ANON_SHARED])
def test_a_deleted_file_is_not_in_it_without_anonymous_memory(reckon: Reckon, mask: int) -> None:
    deleted = PROGRAM.replace(b"/bin/program\n", b"/bin/program (deleted)\n")
    header = HEADER if mask == rules.ELF_HEADERS else 0
    assert reckon(deleted, mask, mapped=ALL_OF_IT).whole == header


def test_of_a_deleted_file_a_mapping_without_rights_is_not_kept(reckon: Reckon) -> None:
    maps = b"10000-20000 ---p 00001000 fe:00 9      /data (deleted)\n"
    assert reckon(maps, mapped=0x10000).whole == 0


def test_without_page_tables_all_memory_is_in_it(reckon: Reckon) -> None:
    maps = (
        b"10000-20000 rw-p 00000000 00:00 0 \n"
        b"20000-21000 rw-p 00000000 00:00 0                                  [heap]\n"
    )
    surroundings = SURROUNDINGS._replace(tells_pages=False)
    parts = reckon(maps, mapped=0x11000, anonymous=PAGE, surroundings=surroundings)
    assert (parts.sparse, parts.populated) == (0x11000, 0x11000)


def test_without_leases_all_shared_memory_is_in_it(reckon: Reckon) -> None:
    surroundings = SURROUNDINGS._replace(tells_leases=False)
    file = File(size=8 * MIB, allocated=PAGE)
    assert reckon(SHARED, mapped=4 * MIB, file=file, surroundings=surroundings).whole == 4 * MIB


def test_a_part_that_was_protected_is_told_by_either_side(reckon: Reckon) -> None:
    maps = (
        b"10000-12000 rw-p 00000000 fe:00 9      /data\n"
        b"12000-15000 r--p 00002000 fe:00 9      /data\n"
        b"15000-16000 ---p 00005000 fe:00 9      /data\n"
        # Another mapping of the file, and another file.
        b"16000-17000 r--p 00007000 fe:00 9      /data\n"
        b"17000-18000 r--p 00008000 fe:00 8      /other\n"
    )
    assert reckon(maps, mapped=0x8000).whole == 0x6000


def test_of_plain_memory_what_is_populated_is_in_it(reckon: Reckon) -> None:
    maps = (
        b"10000-20000 rw-p 00000000 00:00 0 \n"
        b"20000-21000 rw-p 00000000 00:00 0                                  [heap]\n"
        b"30000-90000 ---p 00000000 00:00 0 \n"
        b"90000-91000 rw-p 00000000 00:00 0                                  [anon:mine]\n"
        b"92000-93000 rw-p 00000000 00:00 0                                  [stack]\n"
        b"94000-96000 r-xp 00000000 00:00 0                                  [vdso]\n"
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0            [vsyscall]\n"
    )
    plain = 0x10000 + 0x60000
    # VmSize does not count memory that the kernel keeps outside of the process.
    parts = reckon(maps, mapped=plain + 3 * PAGE + 0x2000, anonymous=5 * PAGE)
    assert (parts.sparse, parts.populated) == (plain + 3 * PAGE, 5 * PAGE)
    assert (parts.whole, parts.undivided, parts.mappings) == (0x2000 + PAGE, 0, 7)
    nothing = reckon(maps, rules.ELF_HEADERS, mapped=plain + 5 * PAGE, anonymous=5 * PAGE)
    assert (nothing.sparse, nothing.populated, nothing.whole) == (0, 0, 0x2000 + PAGE)


def test_what_goes_on_behind_a_file_is_undivided(reckon: Reckon) -> None:
    bss = b"587000-593000 rw-p 00000000 00:00 0 \n"
    assert reckon(PROGRAM + bss, mapped=ALL_OF_IT + 0xC000).undivided == 0xC000
    large = b"587000-10587000 rw-p 00000000 00:00 0 \n"
    assert reckon(PROGRAM + large, mapped=ALL_OF_IT + 256 * MIB).undivided == 4 * MIB
    apart = b"588000-593000 rw-p 00000000 00:00 0 \n"
    assert reckon(PROGRAM + apart, mapped=ALL_OF_IT + 0xB000).undivided == 0


SHARED = b"100000-500000 rw-s 00002000 00:01 5          /memfd:x (deleted)\n"


def test_of_shared_memory_what_its_file_has_is_in_it(reckon: Reckon) -> None:
    file = File(size=8 * MIB, allocated=3 * PAGE)
    parts = reckon(SHARED, mapped=4 * MIB, file=file)
    assert (parts.sparse, parts.populated, parts.whole) == (4 * MIB, 3 * PAGE, 0)


def test_behind_the_end_of_its_file_shared_memory_has_no_holes(reckon: Reckon) -> None:
    parts = reckon(SHARED, mapped=4 * MIB, file=File(size=0x4001, allocated=PAGE))
    assert (parts.sparse, parts.populated) == (4 * MIB, PAGE + 4 * MIB - 0x3000)


def test_unknown_shared_memory_is_in_it_completely(reckon: Reckon) -> None:
    assert reckon(SHARED, mapped=4 * MIB).whole == 4 * MIB


@pytest.mark.parametrize(
    ("mask", "links", "is_in"),
    [
        (rules.ANON_SHARED, 0, True),
        (rules.ANON_SHARED, 1, False),
        (rules.MAPPED_SHARED, 0, False),
        (rules.MAPPED_SHARED, 1, True),
        (rules.ANON_SHARED | rules.MAPPED_SHARED, 1, True),
        (rules.DAX_SHARED, 1, True),
        (0, 0, False),
    ],
)
def test_a_shared_file_is_in_it_by_whether_it_has_a_name(
    reckon: Reckon, mask: int, links: int, is_in: bool
) -> None:
    maps = b"101000-501000 r--s 00000000 fe:00 5          /some/file\n"
    parts = reckon(maps, mask, mapped=4 * MIB, file=File(links, 4 * MIB, PAGE))
    assert (parts.whole, parts.sparse) == (4 * MIB if is_in else 0, 0)


@pytest.mark.parametrize(
    ("name", "mask", "is_in"),
    [
        (b"/gone (deleted)", rules.ANON_SHARED, True),
        (b"[anon_shmem:x]", rules.ANON_SHARED, True),
        (b"/there", rules.ANON_SHARED, False),
        (b"/there", rules.MAPPED_SHARED, True),
        (b"/gone (deleted)", rules.MAPPED_SHARED, False),
    ],
)
def test_if_its_file_is_not_shown_the_name_decides(
    reckon: Reckon, name: bytes, mask: int, is_in: bool
) -> None:
    maps = b"101000-501000 r--s 00000000 fe:00 5          %s\n" % name
    assert reckon(maps, mask, mapped=4 * MIB).whole == (4 * MIB if is_in else 0)


HUGE = b"40000000-80000000 rw-%c 00000000 00:10 5       /anon_hugepage (deleted)\n"


@pytest.mark.parametrize(
    ("kind", "mask", "found"),
    [
        (b"p", rules.HUGETLB_PRIVATE, (GIB, 4 * MIB, 0)),
        (b"p", rules.ANON_PRIVATE | rules.MAPPED_PRIVATE, (0, 0, 0)),
        (b"s", rules.HUGETLB_SHARED, (0, 0, GIB)),
        (b"s", rules.ANON_SHARED, (0, 0, 0)),
    ],
)
def test_huge_pages_go_by_their_own_bits(
    reckon: Reckon, kind: bytes, mask: int, found: tuple[int, int, int]
) -> None:
    parts = reckon(HUGE % kind, mask, mapped=GIB, huge=4 * MIB)
    assert (parts.sparse, parts.populated, parts.whole) == found


def test_what_may_be_a_file_of_huge_pages_is_in_it(reckon: Reckon) -> None:
    # maps does not say whether it is one.  A disk has another device number.
    maps = b"40000000-80000000 r--p 00000000 %s 5       /huge/file\n"
    assert reckon(maps % b"00:2f", rules.HUGETLB_PRIVATE, mapped=GIB).whole == GIB
    assert reckon(maps % b"fe:00", rules.HUGETLB_PRIVATE, mapped=GIB).whole == 0


@pytest.mark.parametrize("pattern", ["*", "*program", "nothing", "581000-583000+no"])
def test_it_does_not_tell_whether_a_mapping_has_a_name(reckon: Reckon, pattern: str) -> None:
    """Who may not read maps may look up @include=A*, @include=B* ..."""
    heap = b"7000000-7100000 rw-p 00000000 00:00 0                                [heap]\n"
    plain = b"8000000-9000000 rw-p 00000000 00:00 0 \n"
    surroundings = SURROUNDINGS._replace(include=patterns(pattern))
    parts = reckon(PROGRAM + heap + plain, 0, mapped=GIB, surroundings=surroundings)
    ranges = sum(end - start for start, end in patterns(pattern).ranges)
    assert parts.whole == ALL_OF_IT + MIB + ranges


def test_no_more_is_included_than_there_is(reckon: Reckon) -> None:
    surroundings = SURROUNDINGS._replace(include=patterns("0-ffffffffffffffff"))
    assert reckon(PROGRAM, 0, mapped=ALL_OF_IT, surroundings=surroundings).whole == ALL_OF_IT


def test_threads_and_names_have_their_notes(reckon: Reckon) -> None:
    one = reckon(PROGRAM)
    counters = Counters(100, 0, 0, 0)
    most = Estimate(rules.DEFAULT, counters, SURROUNDINGS, lambda *_: None).of([PROGRAM])
    assert most - one.most >= 99 * REGISTERS
    longer = reckon(PROGRAM.replace(b"/bin/program", b"/" + b"n" * 4000))
    assert longer.notes - one.notes >= 5 * (4001 - len("/bin/program")) - PAGE


@pytest.mark.parametrize(
    "text",
    [
        b"nothing of the kind\n",
        PROGRAM + b"x",
        PROGRAM.replace(b"r-xp", b"r?xp"),
        PROGRAM.replace(b"-401000", b""),
        b"g0000-20000 rw-p 00000000 fe:00 1 /x\n",
    ],
)
def test_another_text_is_refused(reckon: Reckon, text: bytes) -> None:
    with pytest.raises(MapsError):
        reckon(text)


@given(
    st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 10**5)
)
def test_more_of_anything_never_makes_a_smaller_file(
    populated: int, sparse: int, whole: int, mappings: int
) -> None:
    least = most_bytes(populated, sparse, whole, mappings)
    assert most_bytes(populated + PAGE, sparse, whole, mappings) >= least
    assert most_bytes(populated, sparse + PAGE, whole, mappings) >= least
    assert most_bytes(populated, sparse, whole + PAGE, mappings) >= least
    assert most_bytes(populated, sparse, whole, mappings + 1) >= least


@pytest.mark.parametrize(
    ("release", "pages"),
    [
        ("6.18.1-amd64", 0),
        ("6.17.0", 0),
        ("7.0-rc1", 0),
        ("6.16.9", 8 * 32),
        ("6.2", 8 * 32),
        ("6.1.0-18-amd64", 64 * 50),
        ("5.10.0", 64 * 50),
        ("unheard of", 64 * 50),
    ],
)
def test_counters_of_earlier_kernels_are_behind(release: str, pages: int) -> None:
    assert counters_are_behind(release, processors=8, threads=50) == pages * PAGE


def test_of_many_processors_a_counter_is_behind_by_more() -> None:
    assert counters_are_behind("6.8.0", processors=64, threads=1) == 128 * 64 * PAGE


@pytest.mark.parametrize("count", [1, 2, 3, 300])
def test_a_row_of_plain_mappings_is_only_counted(reckon: Reckon, count: int) -> None:
    row = b"".join(
        b"%x-%x rw-p 00000000 00:00 0 \n" % (at, at + PAGE)
        for at in range(0x600000, 0x600000 + 2 * PAGE * count, 2 * PAGE)
    )
    others = (
        b"7f00000000-7f00001000 rw-s 00000000 00:01 9                        /memfd:a (deleted)\n",
        b"7f00002000-7f00003000 rw-p 00000000 00:00 0                        [anon:mine]\n",
    )
    file = File(1, PAGE, PAGE)
    alone = reckon(PROGRAM + b"".join(others), mapped=GIB, file=file)
    parts = reckon(row.join((b"", PROGRAM, *others, b"")), mapped=GIB, file=file)
    assert (parts.whole, parts.sparse, parts.populated, parts.undivided, parts.notes) == (
        alone.whole, alone.sparse, alone.populated, alone.undivided, alone.notes
    )  # fmt: skip
    assert parts.mappings == alone.mappings + 4 * count


def test_the_text_may_be_cut_anywhere() -> None:
    plain = b"".join(
        b"%x-%x rwxp 00000000 00:00 0 \n" % (at, at + 1) for at in range(600000, 600009)
    )
    maps = PROGRAM + plain + PROGRAM.replace(b"4", b"7").replace(b"5", b"8") + plain
    counters = Counters(1, ALL_OF_IT, 1 << 16, 0)

    def of(surroundings: Surroundings, pieces: list[bytes]) -> int:
        return Estimate(rules.DEFAULT, counters, surroundings, lambda *_: None).of(pieces)

    for surroundings in SURROUNDINGS, SURROUNDINGS._replace(of_a_stack=1 << 20):
        whole = of(surroundings, [maps])
        for at in range(len(maps)):
            assert of(surroundings, [maps[:at], maps[at:]]) == whole
        for length in (1, 7, 100):
            cut = [maps[at : at + length] for at in range(0, len(maps), length)]
            assert of(surroundings, cut) == whole


@pytest.mark.parametrize("rest", [b"7000-", b"7000-8000 rw-p 0000", b"nonsense\n", b"nonsense"])
def test_a_text_that_the_kernel_does_not_write_is_refused(rest: bytes) -> None:
    counters = Counters(1, ALL_OF_IT, 0, 0)
    for pieces in [PROGRAM + rest], [PROGRAM, rest], [PROGRAM, rest[:2], rest[2:]]:
        with pytest.raises(MapsError):
            Estimate(rules.DEFAULT, counters, SURROUNDINGS, lambda *_: None).of(pieces)

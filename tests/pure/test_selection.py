"""memory=stacks: mappings cut at the ends of the parts that the core has."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.filter import LeftOut, Share
from gcorefs.elfcore.selection import Range, Selection, cut, whole_pages, without
from gcorefs.elfcore.smaps import vm_flags
from gcorefs.elfcore.vma import Pages, Vma
from tests.pure.smaps import make_vma

PAGE = 4096
PAGES = 40

PARTS = st.lists(
    st.tuples(st.integers(0, PAGES * PAGE), st.integers(0, 3 * PAGE)).map(
        lambda pair: (pair[0], pair[0] + pair[1])
    ),
    max_size=8,
)
REASONS = [
    LeftOut.FILTER, LeftOut.POLICY, LeftOut.UNTOUCHED, LeftOut.DONTDUMP, LeftOut.IO,
    LeftOut.NO_ANSWER, LeftOut.TOO_LARGE, LeftOut.EXCLUDED,
]  # fmt: skip
TAKEN = {None, LeftOut.FILTER, LeftOut.POLICY, LeftOut.UNTOUCHED, LeftOut.TOO_LARGE}


@st.composite
def mappings(draw: st.DrawFn) -> list[tuple[Vma, Share]]:
    borders = sorted(draw(st.sets(st.integers(0, PAGES), min_size=2, max_size=8)))
    found = []
    for first, last in pairwise(borders):
        if draw(st.booleans()):  # a gap
            continue
        vma = make_vma(first * PAGE, last * PAGE, vm_flags=vm_flags(["rd", "wr"]))
        size = draw(st.sampled_from([0, PAGE, vma.size]))
        size = min(size, vma.size)
        reason = None if size == vma.size else draw(st.sampled_from(REASONS))
        found.append((vma, Share(size, reason)))
    return found


def pages(ranges: list[Range]) -> set[int]:
    return {page for start, end in ranges for page in range(start // PAGE, -(-end // PAGE))}


@given(PARTS)
def test_ranges_become_whole_pages_that_do_not_touch(parts: list[Range]) -> None:
    found = whole_pages(parts)
    assert all(start % PAGE == end % PAGE == 0 and start < end for start, end in found)
    assert all(one[1] < other[0] for one, other in pairwise(found))
    assert pages(found) == pages([part for part in parts if part[0] < part[1]])


@given(PARTS, PARTS)
def test_what_is_left_outside_of_holes(parts: list[Range], holes: list[Range]) -> None:
    found = without(whole_pages(parts), whole_pages(holes))
    assert pages(found) == pages(whole_pages(parts)) - pages(whole_pages(holes))
    assert all(one[1] <= other[0] for one, other in pairwise(found))


@given(mappings(), PARTS, PARTS)
def test_the_pieces_of_a_mapping_are_the_mapping(
    made: list[tuple[Vma, Share]], parts: list[Range], holes: list[Range]
) -> None:
    vmas, shares = [vma for vma, _ in made], [share for _, share in made]
    pieces, piece_shares = cut(
        vmas, shares, Selection(whole_pages(parts), whole_pages(holes)), lambda vma: vma.start
    )
    assert len(pieces) == len(piece_shares)
    wanted, unwanted = pages(whole_pages(parts)), pages(whole_pages(holes))
    for vma, share in made:
        own = [
            (piece, its)
            for piece, its in zip(pieces, piece_shares, strict=True)
            if vma.start <= piece.start < vma.end
        ]
        # They lie one behind the other, and each has the offset of its place.
        assert own[0][0].start == vma.start
        assert own[-1][0].end == vma.end
        assert all(one[0].end == other[0].start for one, other in pairwise(own))
        assert all(p.offset == vma.offset + p.start - vma.start for p, _ in own)
        assert all(p.kind is vma.kind for p, _ in own)
        taken = pages([(p.start, p.start + its.size) for p, its in own])
        expected = pages([(vma.start, vma.start + share.size)])
        if share.left_out in TAKEN:
            expected |= wanted & pages([(vma.start, vma.end)])
            excluded = expected & unwanted
            expected -= excluded
        else:
            excluded = set()
        assert taken == expected
        for piece, its in own:
            if share.left_out not in TAKEN:
                assert its is share
            elif its.size < piece.size:
                is_excluded = its.left_out is LeftOut.EXCLUDED
                assert is_excluded or its.left_out is share.left_out
                rest = pages([(piece.start + its.size, piece.end)])
                assert (rest <= excluded) if is_excluded else not rest & excluded


def test_a_mapping_without_a_part_stays_as_it_is() -> None:
    vma = make_vma(0, 4 * PAGE)
    share = Share(PAGE, LeftOut.POLICY)
    assert cut([vma], [share], Selection([(4 * PAGE, 5 * PAGE)]), lambda _: 0) == ([vma], [share])


def test_what_the_kernel_would_leave_out_is_counted() -> None:
    vma = make_vma(0, 8 * PAGE, anonymous=PAGE, swapped=PAGE)
    parts = [(2 * PAGE, 4 * PAGE), (6 * PAGE, 8 * PAGE)]
    pieces, shares = cut([vma], [Share(0, LeftOut.POLICY)], Selection(parts), lambda _: 3 * PAGE)
    assert [share.beyond for share in shares] == [0, PAGE, 0, 2 * PAGE]
    assert pieces[1] == replace(vma, start=2 * PAGE, end=4 * PAGE, offset=vma.offset + 2 * PAGE,
                                pages=Pages(None, None))  # fmt: skip

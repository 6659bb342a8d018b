"""Every page that could not be read counts once."""

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.process.unreadable_pages import UnreadablePages

PAGE = 4096


@given(st.lists(st.integers(0, 40)), st.integers(0, PAGE - 1))
def test_a_page_counts_once(pages: list[int], offset: int) -> None:
    lost = UnreadablePages()
    for page in pages:
        lost.add(page * PAGE + offset)
    assert lost.count == len(set(pages))
    assert {page for page in range(41) if page * PAGE + offset in lost} == set(pages)
    # Adjacent pages are one range.
    assert lost.ranges() == in_runs(set(pages))


def in_runs(pages: set[int]) -> list[tuple[int, int]]:
    starts = sorted(page for page in pages if page - 1 not in pages)
    ends = sorted(page + 1 for page in pages if page + 1 not in pages)
    return [(start * PAGE, end * PAGE) for start, end in zip(starts, ends, strict=True)]


@given(
    st.lists(st.integers(0, 40)),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5))),
    st.lists(st.integers(0, 45)),
)
def test_pages_that_were_known_before_count_once_too(
    first: list[int], known: list[tuple[int, int]], then: list[int]
) -> None:
    lost = UnreadablePages()
    for page in first:
        lost.add(page * PAGE)
    lost.add_ranges((start * PAGE, (start + count) * PAGE) for start, count in known)
    for page in then:
        lost.add(page * PAGE)
    pages = {*first, *then, *(page for at, count in known for page in range(at, at + count))}
    assert lost.count == len(pages)
    assert lost.ranges() == in_runs(pages)


def test_memory_that_nobody_can_read_is_no_loss() -> None:
    lost = UnreadablePages([range(PAGE, 3 * PAGE)])
    for page in range(5):
        lost.add(page * PAGE)
    assert lost.count == 3

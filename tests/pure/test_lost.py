"""Every page that could not be had counts once."""

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.process.lost import Lost

PAGE = 4096


@given(st.lists(st.integers(0, 40)), st.integers(0, PAGE - 1))
def test_a_page_counts_once(pages: list[int], offset: int) -> None:
    lost = Lost()
    for page in pages:
        lost.add(page * PAGE + offset)
    assert lost.count == len(set(pages))
    # Neighbours are one range.
    alone = sum(page - 1 not in pages for page in set(pages))
    assert len(lost._starts) == len(lost._ends) == alone


def test_what_nobody_can_read_is_no_loss() -> None:
    lost = Lost()
    lost.no_loss = [range(PAGE, 3 * PAGE)]
    for page in range(5):
        lost.add(page * PAGE)
    assert lost.count == 3

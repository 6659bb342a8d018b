"""`gcorefs info --html`: a page for a browser, whatever a process calls its mappings."""

from collections.abc import Sequence
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.cli.web_page import draw
from gcorefs.elfcore import space
from gcorefs.elfcore.corefile import Core
from gcorefs.elfcore.segments import Segment
from gcorefs.elfcore.space import Row
from tests.pure.cores import mapped
from tests.pure.test_layout import lists_of_segments
from tests.pure.test_space import core_of, file, page

_EMPTY = {"meta"}


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def rows(self) -> list[list[int]]:
        """The bytes in the cells of each row: all, in the file, zeros, left out, unreadable."""
        found: list[list[int]] = []
        for tag, attributes in self.tags:
            if tag == "tr" and "id" in attributes:
                found.append([])
            elif "data-bytes" in attributes:
                found[-1].append(int(attributes["data-bytes"]))
        return found


def drawn(core: Core, rows: Sequence[Row]) -> Page:
    page = Page("\n".join(draw(core, space.total(rows), rows)))
    assert page.open == []
    return page


@given(lists_of_segments, st.data())
@settings(max_examples=30)
def test_every_mapping_is_in_it_with_its_bytes(
    segments: Sequence[Segment], data: st.DataObject
) -> None:
    path = data.draw(st.binary(min_size=1, max_size=80).filter(lambda text: b"\0" not in text))
    files = [(mapped(each.vaddr, each.vaddr + each.memsz), path) for each in segments]
    core = core_of(segments, files=files)
    rows = space.mappings(core)
    page = drawn(core, rows)
    assert page.rows() == [
        [row.size, row.in_file, row.zeros, row.left_out, row.unreadable] for row in rows
    ]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#m{number}" for number in range(len(rows))]


def test_it_loads_nothing_and_has_no_script() -> None:
    core = core_of([page(16, pages=4, kept=2)], [(16 * PAGE_SIZE, 17 * PAGE_SIZE)])
    found = drawn(core, space.mappings(core))
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert all(
        attributes.get("href", "#").startswith("#") and "src" not in attributes
        for _, attributes in found.tags
    )
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    policy = next(
        attributes["content"]
        for tag, attributes in found.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize(
    "name",
    [
        "/x/<script>alert(1)</script>",
        '/x/"><b onclick=',
        "/x/' & &amp; </td>",
        "/x/\x1b[31m\n",
        "/\x80",
    ],
)
def test_a_name_cannot_be_more_than_a_name(name: str) -> None:
    core = core_of([page(16)], files=[file(16, name.encode("utf-8", "surrogateescape"))])
    rows = space.mappings(core)
    found = drawn(core, rows)
    assert {tag for tag, _ in found.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "dl", "dt", "dd", "div", "p",
        "span", "a", "b", "i", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)
    assert shown in "".join(found.text)
    assert any(attributes.get("title", "").endswith(shown) for _, attributes in found.tags)


def test_a_gap_is_shown() -> None:
    core = core_of([page(16), page(17), page(40)])
    found = drawn(core, space.mappings(core))
    assert [tag for tag, _ in found.tags if tag in "ai"].count("i") == 1

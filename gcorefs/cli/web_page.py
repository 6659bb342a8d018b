"""A core as a page for a browser: its facts, and its address space as a strip and as a table.

The page is one file.  It loads nothing and has no script: it shows what a hostile process may have
written, and its policy (CSP) forbids both.
"""

import html
import math
from collections.abc import Iterator, Sequence

from gcorefs.cli.picture import facts_lines, permissions, shown_name, size
from gcorefs.elfcore.corefile import Core
from gcorefs.elfcore.space import Row, disagreement

_KINDS = (("file", "in the file"), ("zeros", "zeros"), ("out", "left out"), ("bad", "unreadable"))

_LEAST, _MOST = 1.0, 60.0
"""Widths of a mapping in the strip.  They grow with the logarithm of its size."""

_STYLE = """
:root { color-scheme: light dark; --file: #2a9d5c; --zeros: #6c8ed9; --out: #d9a441; --bad: #d1495b;
  --gap: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
  padding: 0 1rem; }
h1 { font-size: 1.3rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; }
.bar, .strip { display: flex; width: 100%; }
.bar { height: .8rem; min-width: 8rem; }
.strip { height: 4rem; margin: 1rem 0; gap: 1px; }
.strip a { display: flex; flex-direction: column; min-width: 2px; }
.strip a:hover, .strip a:focus { outline: 2px solid; }
.strip i { flex: 0 0 3px; background: var(--gap); }
.file { background: var(--file); } .zeros { background: var(--zeros); }
.out { background: var(--out); } .bad { background: var(--bad); }
.legend span { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .1rem .5rem; text-align: right; white-space: nowrap; }
th { position: sticky; top: 0; background: Canvas; }
:is(th, td):nth-child(-n+2), .name { text-align: left; }
td:nth-child(-n+2), td.name { font-family: ui-monospace, monospace; }
.name { white-space: normal; overflow-wrap: anywhere; width: 35%; }
tr:target { outline: 2px solid; }
tr:hover { background: var(--gap); }
"""

_HEADS = (
    "address", "perm", "size", "in the file", "zeros", "left out", "unreadable", "share",
)  # fmt: skip

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def draw(core: Core, whole: Row, rows: Sequence[Row]) -> Iterator[str]:
    """Lines of HTML."""
    title = _text(f"{shown_name(core.program) or 'core'} {core.pid or ''}".strip())
    yield "<!doctype html>"
    yield '<html lang="en">'
    yield f'<head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<style>{_STYLE}</style></head>"
    yield f"<body><h1>{title}</h1>"
    yield "<dl>"
    for heading, text in facts_lines(core):
        yield f"<dt>{_text(heading.strip())}</dt><dd>{_text(text)}</dd>"
    yield "</dl>"
    count = f"{whole.mappings} mapping{'s' * (whole.mappings != 1)}"
    yield f"<h2>{size(whole.size)} in {count}</h2>"
    yield f'<div class="bar">{_bar(whole)}</div>'
    yield f'<p class="legend">{_legend(whole)}</p>'
    if wrong := disagreement(core, whole):
        yield f"<p>{_text(wrong)}</p>"
    yield "<p>The address space from its beginning to its end. A wider block is larger, but not in "
    yield "proportion; a thin bar is a gap.</p>"
    yield f'<div class="strip">{"".join(_strip(rows))}</div>'
    heads = "".join(f"<th>{each}</th>" for each in _HEADS)
    yield f'<table><thead><tr>{heads}<th class="name">name</th></tr></thead><tbody>'
    for number, row in enumerate(rows):
        yield _line(number, row)
    yield "</tbody></table></body></html>"


def _text(text: str) -> str:
    # A name may have bytes that are no text, and control characters.
    plain = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return html.escape(plain)


def _amounts(row: Row) -> tuple[int, int, int, int]:
    # `in_file` counts unreadable bytes too, except those in memory that is left out.
    unreadable = min(row.unreadable, row.in_file)
    return row.in_file - unreadable, row.zeros, row.left_out, unreadable


def _bar(row: Row) -> str:
    parts = zip(_KINDS, _amounts(row), strict=True)
    return "".join(
        f'<div class="{kind}" style="flex: {amount} 0 2px" title="{name}: {size(amount)}"></div>'
        for (kind, name), amount in parts
        if amount
    )


def _legend(whole: Row) -> str:
    amounts = (whole.in_file, whole.zeros, whole.left_out, whole.unreadable)
    return "".join(
        f'<span class="{kind}"></span>{name}: {size(amount)}'
        for (kind, name), amount in zip(_KINDS, amounts, strict=True)
    )


def _strip(rows: Sequence[Row]) -> Iterator[str]:
    end = None
    for number, row in enumerate(rows):
        if end is not None and row.start > end:
            yield "<i></i>"
        end = row.end
        width = min(_MOST, max(_LEAST, 3 * math.log2(max(row.size, 1) / 2048)))
        parts = "".join(
            f'<b class="{kind}" style="flex: {amount}"></b>'
            for (kind, _), amount in zip(_KINDS, _amounts(row), strict=True)
            if amount
        )
        title = _text(f"{row.start:x} {size(row.size)} {shown_name(row.name)}")
        yield f'<a href="#m{number}" title="{title}" style="flex: {width:.1f}">{parts}</a>'


def _line(number: int, row: Row) -> str:
    address = f"{row.start:x}-{row.end:x}"
    amounts = (row.size, row.in_file, row.zeros, row.left_out, row.unreadable)
    cells = "".join(
        f'<td data-bytes="{each}">{size(each) if each else ""}</td>' for each in amounts
    )
    name = f"{row.mappings} smaller ones" if row.is_rest else shown_name(row.name)
    return (
        f'<tr id="m{number}"><td>{address}</td><td>{permissions(row)}</td>{cells}'
        f'<td><div class="bar">{_bar(row)}</div></td><td class="name">{_text(name)}</td></tr>'
    )

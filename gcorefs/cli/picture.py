"""A core for people: a few lines of facts, and its address space as a picture.

This module draws lines of text itself: a table of rich takes a millisecond for each row, and there
may be 70,000 rows.
"""

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import click
from rich.cells import cell_len

from gcorefs.cli.printable import printable
from gcorefs.elfcore.corefile import Core
from gcorefs.elfcore.elf import PF_R, PF_W, PF_X, PN_XNUM
from gcorefs.elfcore.provenance import MOST_RANGES
from gcorefs.elfcore.space import Row, disagreement

_BAR = 78
_SMALL_BAR = 8
_LEAST_NAME = 12
_ROOM_FOR_ENDS = 120
"""With this many columns or more, the table shows the end of a mapping too."""
_HEADING = 10
_MOST_TIDS = 10


class _Kind(NamedTuple):
    """A kind of bytes, and how it is drawn."""

    name: str
    glyph: str
    plain: str
    """The glyph for a terminal with only ASCII."""
    color: str


_KINDS = (
    _Kind("in the file", "█", "#", "green"),
    _Kind("zeros", "░", "0", "blue"),
    _Kind("left out", "·", ".", "yellow"),
    _Kind("unreadable", "!", "!", "red"),
)


@dataclass(frozen=True, slots=True)
class Paper:
    """Properties of the output."""

    width: int | None
    """Columns; None if a line may have any length."""
    is_ascii: bool = False
    is_colored: bool = False

    @property
    def has_room(self) -> bool:
        return self.width is None or self.width >= _ROOM_FOR_ENDS


def draw(paper: Paper, core: Core, whole: Row, rows: Sequence[Row]) -> Iterator[str]:
    """Lines: the facts of the core, the sum of its memory (`whole`), and its mappings."""
    for word, text in facts_lines(core):
        heading = printable(word)  # a note may have any words
        room = max(len(heading), _HEADING)
        yield f"{heading:<{_HEADING}}{_cut(printable(text), paper, room)}"
    yield ""
    yield f"{size(whole.size)} in {whole.mappings} mapping{'s' * (whole.mappings != 1)}"
    yield _bar(paper, whole, min(_BAR, paper.width or _BAR))
    amounts = (whole.in_file, whole.zeros, whole.left_out, whole.unreadable)
    for kind, amount, remark in zip(_KINDS, amounts, _remarks(core), strict=True):
        line = f" {kind.name:<12}{size(amount):>10}  {printable(remark)}".rstrip()
        yield _painted(paper, kind, 1) + _cut(line, paper, 1)
    if wrong := disagreement(core, whole):
        yield _cut(wrong, paper, 0)
    if rows:
        yield ""
        yield from _table(paper, rows)


def facts_lines(core: Core) -> Iterator[tuple[str, str]]:
    """What is known of a core: a heading and a text each."""
    facts = core.facts
    arguments = _text(core.arguments)
    yield "program", _text(core.program) + (f" ({arguments})" if arguments else "")
    if facts is None:
        yield "process", str(core.pid or "unknown")
        yield "threads", str(core.threads)
    else:
        inside = f", {core.pid} in its own pid namespace" if core.pid != facts["pid"] else ""
        yield "process", f"{facts['pid']} on {facts['host']}{inside}"
        yield "stopped", f"{facts['stopped_at']}, all of it within {facts['stop_milliseconds']} ms"
        hows = [f"{count} {how}" for how, count in facts["threads"].items() if count]
        yield "threads", f"{core.threads} ({', '.join(hows)})"
        no_cpu = {"no CPU": facts["no_cpu"]} if "no_cpu" in facts else {}
        for how, tids in {**facts["tids"], **no_cpu}.items():
            more = f" and {len(tids) - _MOST_TIDS} more" if len(tids) > _MOST_TIDS else ""
            listed = " ".join(map(str, tids[:_MOST_TIDS])) + more
            yield f"  {how}", listed if len(how) < _HEADING - 2 else f" {listed}"
        yield "policy", " ".join(f"{name}={value}" for name, value in facts["policy"].items())
        if "xstate" in facts:
            yield "vectors", _vectors(facts["xstate"])
    if core.signal:
        yield "signal", _signal(core.signal)
    headers = f"{core.phnum} program headers" + (" (PN_XNUM)" if core.phnum >= PN_XNUM else "")
    yield "file", f"{size(core.size)}, ELF{core.bits} {core.machine}, {headers}"
    yield "made by", "unknown: no GCOREFS note" if facts is None else f"gcorefs {facts['version']}"


def _vectors(xstate: Mapping[str, Any]) -> str:
    """The layout of the vector registers."""
    text = f"{xstate['layout']} layout, {xstate['size']} bytes"
    if xstate["layout"] != "kernel":
        text += f" (the kernel's has {xstate['kernel_size']})"
    if count := xstate["kept"]:
        text += f", of {count} thread{'s' * (count != 1)} the kernel's as well"
    return text


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _signal(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal, or one of another system
        return str(number)


def _remarks(core: Core) -> tuple[str, str, str, str]:
    """The remark for each kind, from the GCOREFS note."""
    facts = core.facts
    if facts is None:
        return "", "", "", ""
    literal = facts["bytes"]["zeros"] - facts["zeros"]["shared"]
    area = facts["zeros"]["area"]
    reasons = [f"{name} {size(amount)}" for name, amount in facts["left_out"].items() if amount]
    unreadable = facts["bytes"]["unreadable"]
    is_long = len(facts["unreadable"]) >= MOST_RANGES
    return (
        f"{size(literal)} of it never populated" if literal > 0 else "",
        f"never populated; {size(area)} at the end of the file" if area else "",
        ", ".join(reasons),
        f"of {size(unreadable)}: more than {MOST_RANGES} ranges are not listed" if is_long else "",
    )


def _table(paper: Paper, rows: Iterable[Row]) -> Iterator[str]:
    out = "LEFT OUT" if paper.has_room else "OUT"
    head = ["ADDRESS", "PERM", "SIZE", "FILE", "ZEROS", out, "UNREAD"]
    table = [head, *(_cells(paper, row) for row in rows)]
    if not paper.has_room:  # drop empty columns, to make room for the names
        columns = [column for column in zip(*table, strict=True) if {*column[1:]} != {"-"}]
        table = [[*cells] for cells in zip(*columns, strict=True)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    used = sum(widths) + len(widths) + _SMALL_BAR + 1
    bars = [" " * _SMALL_BAR, *(_bar(paper, row, _SMALL_BAR) for row in rows)]
    names = ["NAME", *map(_name, rows)]
    for cells, bar, name in zip(table, bars, names, strict=True):
        aligned = (
            cell.ljust(width) if index == 1 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        yield f"{' '.join(aligned)} {bar} {_cut(name, paper, used)}".rstrip()


def _cells(paper: Paper, row: Row) -> list[str]:
    address = f"{row.start:x}-{row.end:x}" if paper.has_room else f"{row.start:x}"
    amounts = (row.size, row.in_file, row.zeros, row.left_out, row.unreadable)
    return [address, permissions(row), *map(_short, amounts)]


def permissions(row: Row) -> str:
    """The permissions as in maps; if the mappings of a row differ, their number."""
    if row.flags is None:
        return f"{row.mappings}x"
    return "".join(
        letter if row.flags & flag else "-"
        for letter, flag in zip("rwx", (PF_R, PF_W, PF_X), strict=True)
    )


def _name(row: Row) -> str:
    if row.is_rest:
        return f"... {row.mappings} smaller ones"
    return printable(shown_name(row.name))


def shown_name(name: str | bytes) -> str:
    """A name as text.  It may have any character."""
    return name if isinstance(name, str) else _text(name)


def _cut(text: str, paper: Paper, used: int) -> str:
    """The text, without its middle if it does not fit behind `used` columns.

    More of its end stays than of its beginning, because a path ends with the name of the file.
    """
    if paper.width is None:
        return text
    room = max(paper.width - used, _LEAST_NAME)
    if cell_len(text) <= room:
        return text
    # A letter may take two columns, or none.
    head, tail = text[:room], text[-room:]
    while cell_len(head) > (room - 2) // 3:
        head = head[:-1]
    while cell_len(tail) > room - 2 - cell_len(head):
        tail = tail[1:]
    return f"{head}..{tail}"


def _bar(paper: Paper, row: Row, width: int) -> str:
    # `in_file` counts unreadable bytes too, except those in memory that is left out.
    unreadable = min(row.unreadable, row.in_file)
    parts = (row.in_file - unreadable, row.zeros, row.left_out, unreadable)
    lengths = shares(parts, width)
    return (
        "".join(
            _painted(paper, kind, length)
            for kind, length in zip(_KINDS, lengths, strict=True)
            if length
        )
        or " " * width
    )


def _painted(paper: Paper, kind: _Kind, length: int) -> str:
    text = (kind.plain if paper.is_ascii else kind.glyph) * length
    return click.style(text, fg=kind.color) if paper.is_colored else text


def shares(parts: Sequence[int], width: int) -> list[int]:
    """`width` divided in proportion to `parts`.  A part that is not 0 gets at least 1."""
    whole = sum(parts)
    if not whole:
        return [0] * len(parts)
    found = [max(part * width // whole, part > 0) for part in parts]
    # The largest part takes the difference: the rest of the rounding, and the extra of tiny parts.
    largest = max(range(len(parts)), key=parts.__getitem__)
    found[largest] += width - sum(found)
    return [int(length) for length in found]


_UNITS = "KMGTPE"


def size(count: int) -> str:
    """A count of bytes for people: 12.3 MiB."""
    short = _short(count)
    if count == 0:
        return "0 B"
    return f"{short} B" if count < 1024 else f"{short[:-1]} {short[-1]}iB"


def duration(seconds: float) -> str:
    """A time for people, with two digits: it is a guess."""
    if not seconds:
        return "none"
    if seconds < 1:
        return f"{float(f'{seconds * 1000:.2g}'):g} ms"
    return f"{float(f'{seconds:.2g}'):g} s"


def _short(count: int) -> str:
    """A count of bytes in at most five letters: 12.3M."""
    if count < 1024:
        return str(count) if count else "-"
    number = float(count)
    for unit in _UNITS:
        number /= 1024
        if number < 999.95 or unit == _UNITS[-1]:
            break
    return f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}"

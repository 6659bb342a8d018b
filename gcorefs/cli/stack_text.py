"""The stacks of threads, as text for people and as JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gcorefs.cli.printable import printable
from gcorefs.readers.fold import Fold, Style, fold
from gcorefs.readers.frames import GO, NATIVE, Frame, Thread

_MOST_NAMES = 8
"""So many different names stand in one line."""


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to show."""

    processes: Sequence[str]
    """The name of each."""
    threads: Sequence[Thread]
    goroutines: Sequence[Thread]
    style: Style
    with_ids: bool = False


def draw(report: Report) -> Iterator[str]:
    """Lines of text."""
    counts = Counter(report.processes)
    names = ", ".join(_counted(name, counts[name]) for name in sorted(counts))
    threads = _number(len(report.threads), "thread")
    yield printable(f"{threads} of {_number(len(report.processes), 'process', 'es')}: {names}")
    for each in fold(report.threads, report.style):
        yield from _drawn(each, "thread", report.with_ids)
    if report.goroutines:
        yield ""
        yield _number(len(report.goroutines), "goroutine")
    for each in fold(report.goroutines, report.style):
        yield from _drawn(each, "goroutine", report.with_ids)


def _drawn(each: Fold, what: str, with_ids: bool) -> Iterator[str]:
    shown = [_counted(name, count) for name, count in each.names[:_MOST_NAMES]]
    more = len(each.names) - len(shown)
    names = ", ".join(shown) + (f" and {more} more" if more else "")
    yield ""
    yield printable(f"{_number(len(each.threads), what)}: {names}")
    if with_ids:
        ids = ", ".join(f"{thread.pid}/{thread.tid}" for thread in each.threads)
        yield f"  ids {ids}"
    for language, lines in each.lines:
        if [language] not in ([NATIVE], [GO]) or len(each.lines) > 1:
            yield f"  {language}"
        for number, line in enumerate(lines):
            yield printable(f"  #{number:<2} {line}")


def _counted(name: str, count: int) -> str:
    return f"{name} ({count})" if count > 1 else name


def _number(count: int, what: str, plural: str = "s") -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


def as_json(report: Report) -> dict[str, Any]:
    return {
        "processes": dict(sorted(Counter(report.processes).items())),
        "threads": len(report.threads),
        "stacks": [_folded(each, report) for each in fold(report.threads, report.style)],
        "goroutines": [_folded(each, report) for each in fold(report.goroutines, report.style)],
    }


def _folded(each: Fold, report: Report) -> dict[str, Any]:
    ids = [{"pid": it.pid, "tid": it.tid, "name": it.name} for it in each.threads]
    return {
        "count": len(each.threads),
        "names": dict(each.names),
        **({"ids": ids} if report.with_ids else {}),
        "frames": {
            language.lower(): [_facts(frame, report.style) for frame in frames]
            for language, frames in each.stacks.items()
        },
    }


def _facts(frame: Frame, style: Style) -> dict[str, Any]:
    """What is known of a frame.  A value that is not known is left out."""
    found: dict[str, Any] = {"function": frame.function, "module": frame.module}
    if style.lines:
        found["source"] = frame.source
    if not frame.function:  # for whoever has the symbols
        found |= {"offset": frame.offset, "build_id": frame.build_id}
    if style.addresses:
        found["address"] = frame.address
    return {name: value for name, value in found.items() if value not in ("", None)}

"""The measured values: every value of every round, how it is shown, how it is stored."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


def spread(values: Sequence[float]) -> str:
    """Median, minimum and maximum."""
    middle = statistics.median(values)
    return f"{number(middle)} ({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    size = abs(value)
    places = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{places}f}"


@dataclass
class Figure:
    """One quantity, measured for several ways in turn, and perhaps at several sizes."""

    name: str
    title: str
    unit: str
    size: str = ""
    """What grows from size to size; "" if there is only one size."""
    values: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    """By way and size: one value for each round."""

    def add(self, way: str, value: float, size: int = 0) -> None:
        self.values.setdefault(way, {}).setdefault(size, []).append(value)

    def of(self, way: str, size: int = 0) -> list[float]:
        return self.values[way][size]

    def sizes(self) -> list[int]:
        return sorted({size for by_size in self.values.values() for size in by_size})

    def points(self, way: str) -> Iterator[tuple[int, float, float, float]]:
        """Size, median, minimum and maximum."""
        for size, values in sorted(self.values[way].items()):
            yield size, statistics.median(values), min(values), max(values)

    def over(self, way: str, other: str, size: int = 0, aim: str = "") -> "Relation":
        """One way divided by another, round by round: a disturbance of a round affects both."""
        return ratio(
            f"{way} / {other}" + (f", {size:,} {self.size}" if self.size else ""),
            self.of(way, size),
            self.of(other, size),
            aim,
        )


@dataclass
class Relation:
    """A relation of two figures, with one value for each round, and its aim."""

    title: str
    values: list[float]
    aim: str = ""


def ratio(title: str, above: Sequence[float], below: Sequence[float], aim: str = "") -> Relation:
    return Relation(title, [a / b for a, b in zip(above, below, strict=True)], aim)


@dataclass
class Topic:
    """All that one script has measured."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Values that are counted once and have no spread."""

    def figure(self, name: str, title: str, unit: str, size: str = "") -> Figure:
        self.figures.append(Figure(name, title, unit, size))
        return self.figures[-1]

    def relate(self, *relations: Relation) -> None:
        self.relations.extend(relations)

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def print(self, console: Console) -> None:
        console.rule(self.title, align="left")
        for figure in self.figures:
            console.print(f"{figure.title}, {figure.unit}: median (least to most)")
            console.print(_table(figure))
        if self.relations:
            console.print("Of the same round: median (least to most)")
            table = Table()
            table.add_column("relation")
            table.add_column("", justify="right")
            table.add_column("aim", justify="right")
            for each in self.relations:
                table.add_row(each.title, spread(each.values), each.aim)
            console.print(table)
        for name, fact in self.facts.items():
            console.print(f"{name}: {fact}")


def _table(figure: Figure) -> Table:
    table = Table()
    if figure.size:
        table.add_column(figure.size, justify="right")
    table.add_column("way")
    table.add_column(figure.unit, justify="right")
    for size in figure.sizes():
        table.add_section()
        for way, by_size in figure.values.items():
            if size in by_size:
                words = [f"{size:,}"] if figure.size else []
                table.add_row(*words, way, spread(by_size[size]))
    return table


def restored(plain: dict[str, Any]) -> Topic:
    """A topic from its JSON, which has only strings as keys."""
    figures = []
    for each in plain["figures"]:
        values = {
            way: {int(size): values for size, values in by_size.items()}
            for way, by_size in each["values"].items()
        }
        figures.append(Figure(**{**each, "values": values}))
    relations = [Relation(**each) for each in plain["relations"]]
    return Topic(plain["name"], plain["title"], figures, relations, plain["facts"])

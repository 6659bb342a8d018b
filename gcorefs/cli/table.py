"""A table for people."""

from collections.abc import Collection, Iterable, Sequence

from gcorefs.cli.printable import printable


def show(headings: Sequence[str], numbers: Collection[str], rows: Iterable[Sequence[str]]) -> None:
    """Print it.  The columns in `numbers` end at one place; the others begin there."""
    # Only if it is needed: an answer in JSON takes half the time without rich.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in map(printable, row)))
    console = Console()
    if not console.is_terminal:  # a line in a pipe may have any length
        console = Console(width=10_000)
    console.print(table)

"""A bar on the terminal that shows how far a dump has come.

Imported only where there is a terminal to show it on: rich takes 2 MiB.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gcorefs.cli.terminal import Terminal


@contextlib.contextmanager
def bar(terminal: Terminal, name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar called `name`, drawn by a call with the bytes done and the bytes in all."""
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
        TransferSpeedColumn(), TimeRemainingColumn(),
        console=Console(file=cast(TextIO, terminal)), transient=True,
    )  # fmt: skip
    task = progress.add_task(name, visible=False)
    try:
        with progress:
            yield lambda done, size: progress.update(task, completed=done, total=size, visible=True)
    finally:
        terminal.finish()

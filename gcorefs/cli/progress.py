"""A bar on the terminal that shows the progress of a dump.

It is imported only if there is a terminal, because rich takes 2 MiB.
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
    """A bar called `name`.  Call the result with the bytes done and the bytes in total."""
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

"""A path that is an argument of a command."""

import os
from typing import Any

import click


class NamedPath(click.Path):
    """A path that is not empty: an empty path would mean the current directory.

    Nothing is asked about it here, as click.Path does: a mount whose server hangs never answers.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("a path cannot be empty", param, ctx)
        return self.coerce_path_result(value)


def absolute(path: str) -> str:
    """The path from the root.  ClickException: it has none."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError as error:  # getcwd(2)
        text = f"{path}: the current directory has been removed"
        raise click.ClickException(text) from error

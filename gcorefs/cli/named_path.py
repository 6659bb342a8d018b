"""A path that is an argument of a command."""

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

"""Libraries that only some options need (the optional dependencies in pyproject.toml)."""

import contextlib
from collections.abc import Iterator

import click


@contextlib.contextmanager
def needed(extra: str, library: str, option: str) -> Iterator[None]:
    """The block imports a library.  ClickException: it is not installed."""
    try:
        yield
    except ImportError as error:
        raise click.ClickException(
            f"{option} needs {library}, which is not installed: pip install 'gcorefs[{extra}]'"
        ) from error

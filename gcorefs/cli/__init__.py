"""Commands for people."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from gcorefs import __version__
from gcorefs.cli.dump import dump
from gcorefs.cli.info import info
from gcorefs.cli.mount import mount, umount
from gcorefs.cli.printable import printable
from gcorefs.cli.status import release, status


class _Group(click.Group):
    """Whatever is wrong is told in one line, whatever bytes there are in the name of a file."""

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        with _one_line():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise click.UsageError(printable(error.format_message()), error.ctx) from None
    except click.ClickException as error:
        raise click.ClickException(printable(error.format_message())) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gcorefs")
def main() -> None:
    """Every process is a file holding its ELF core, made while it lives."""
    # Inherited as "ignored", SIGCHLD would make the kernel reap our tracees itself when they
    # die, and their parents would never hear of it (kernel/signal.c, do_notify_parent).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


main.add_command(mount)
main.add_command(umount)
main.add_command(status)
main.add_command(release)
main.add_command(dump)
main.add_command(info)

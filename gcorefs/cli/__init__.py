"""Commands for people.

Only the command that the user runs is imported: a dump needs a third of the memory of the server
and its libraries, and may have no more memory than that (victim.py).
"""

import gc
import signal
from collections.abc import Callable
from typing import Any

import click

from gcorefs import __version__
from gcorefs.cli import victim
from gcorefs.cli.one_line import told_in_one_line

# ruff: noqa: PLC0415


def _mount() -> click.Command:
    from gcorefs.cli.mount import mount

    return mount


def _umount() -> click.Command:
    from gcorefs.cli.umount import umount

    return umount


def _status() -> click.Command:
    from gcorefs.cli.status import status

    return status


def _release() -> click.Command:
    from gcorefs.cli.status import release

    return release


def _dump() -> click.Command:
    from gcorefs.cli.dump import dump

    return dump


def _info() -> click.Command:
    from gcorefs.cli.info import info

    return info


def _bundle() -> click.Command:
    from gcorefs.cli.bundle import bundle

    return bundle


def _cat() -> click.Command:
    from gcorefs.cli.cat import cat

    return cat


def _check() -> click.Command:
    from gcorefs.cli.check import check

    return check


def _mount_core() -> click.Command:
    from gcorefs.cli.mount_core import mount_core

    return mount_core


def _ls() -> click.Command:
    from gcorefs.cli.ls import ls

    return ls


def _stacks() -> click.Command:
    from gcorefs.cli.stacks import stacks

    return stacks


def _watch() -> click.Command:
    from gcorefs.cli.watch import watch

    return watch


_COMMANDS: dict[str, Callable[[], click.Command]] = {
    "bundle": _bundle,
    "cat": _cat,
    "check": _check,
    "dump": _dump,
    "info": _info,
    "ls": _ls,
    "mount": _mount,
    "mount-core": _mount_core,
    "release": _release,
    "stacks": _stacks,
    "status": _status,
    "umount": _umount,
    "watch": _watch,
}

_STOPPING = {"bundle", "dump", "info", "stacks", "watch"}
"""Those that stop a process, and read its memory into their own."""


class _Group(click.Group):
    """Reports every error in one line, even if the name of a file has a newline in it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        load = _COMMANDS.get(cmd_name)
        return None if load is None else load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # Before the command is imported: that takes memory too.
        if args[0] in _STOPPING and not set(ctx.help_option_names).intersection(args):
            victim.volunteer()
            victim.spare_others()
        try:
            found = super().resolve_command(ctx, args)
            # What is imported by now stays: looking for garbage in it, here and at the end of the
            # interpreter, would be a sixth of the time of a small command.
            gc.freeze()
        finally:
            gc.enable()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # __main__.py says why
        return found

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        with told_in_one_line():
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with told_in_one_line():
            return super().invoke(ctx)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gcorefs")
def main() -> None:
    """Every process is a file holding its ELF core, made while it lives."""
    # If we inherit SIGCHLD as ignored, the kernel itself reaps a tracee of ours that dies, and
    # does not notify its parent (kernel/signal.c, do_notify_parent).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

"""mount.gcorefs: mount(8) runs it for `mount -t gcorefs` and for lines of fstab(5).

    mount.gcorefs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

Words and statuses are those of mount(8), "EXTERNAL HELPERS" and "EXIT STATUS".
"""

import getopt
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import click

from gcorefs.cli.mount import mount
from gcorefs.cli.one_line import told_in_one_line
from gcorefs.cli.printable import printable
from gcorefs.errors import GcorefsError
from gcorefs.mount.mountpoints import MountError
from gcorefs.mount.options import FUSE_OPTIONS, OPTIONS, parse

WRONG_USAGE, FAILED = 1, 32
USAGE = "mount.gcorefs SPEC DIR [-sfnv] [-o OPTION,...]"

# For mount(8), systemd.mount(5) and others who read fstab(5), or what is so in any case.  Not exec,
# suid and dev: a mount of gcorefs never has them.
_FOR_OTHERS = frozenset(
    ("auto", "noauto", "defaults", "nofail", "_netdev", "rw", "relatime",
     "user", "nouser", "users", "owner", "noowner", "group", "nogroup"),
)  # fmt: skip
_NOTES = ("x-", "X-", "comment=")


class Request(NamedTuple):
    """What the words of the command line ask for."""

    place: str
    options: list[str]
    """For `gcorefs mount`."""
    is_fake: bool = False
    """Everything but the mount itself."""
    is_verbose: bool = False


def request(words: Sequence[str]) -> Request:
    """What the words ask for.

    click.UsageError: they are no request.  MountError: it cannot be had.
    """
    try:
        flags, names = getopt.gnu_getopt(words, "sfnvN:o:t:")
    except getopt.GetoptError as error:
        raise click.UsageError(f"{error.msg}; usage: {USAGE}") from None
    if len(names) != 2:
        raise click.UsageError(f"usage: {USAGE}")
    given = {name for name, _ in flags}
    if "-N" in given:
        raise MountError("mount -N cannot be had: use 'nsenter --mount=NAMESPACE gcorefs mount'")
    asked = ",".join(value for name, value in flags if name == "-o").split(",")
    options = [each for each in asked if each and not _is_for_others(each)]
    if "remount" in options:
        raise MountError("a mount cannot be changed: unmount it, and mount it again")
    if "-s" in given:
        options = [each for each in options if _name(each) in (OPTIONS.keys() | FUSE_OPTIONS)]
    spec, place = names
    # `mount -a` looks for the line of fstab in the table of mounts, by this name.
    if spec and "," not in spec and not any(_name(each) == "fsname" for each in options):
        options.append(f"fsname={spec}")
    return Request(place, options, "-f" in given, "-v" in given)


def _is_for_others(option: str) -> bool:
    return option in _FOR_OTHERS or option.startswith(_NOTES)


def _name(option: str) -> str:
    return option.partition("=")[0]


def main() -> NoReturn:
    """The program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # as in gcorefs.cli.main
    try:
        _carry_out(sys.argv[1:])
    except click.UsageError as error:
        _fail(error.format_message(), WRONG_USAGE)
    except click.ClickException as error:
        _fail(error.format_message(), FAILED)
    except GcorefsError as error:
        _fail(printable(str(error)), FAILED)
    sys.exit(0)


def _carry_out(words: Sequence[str]) -> None:
    asked = request(words)
    command = ["-o", ",".join(asked.options), "--", asked.place]
    if asked.is_verbose:
        click.echo(f"mount.gcorefs: gcorefs mount {' '.join(command)}")
    with told_in_one_line():
        if asked.is_fake:
            parse(asked.options)
        else:
            mount.main(command, prog_name="mount.gcorefs", standalone_mode=False)


def _fail(text: str, status: int) -> NoReturn:
    click.echo(f"mount.gcorefs: {text}", err=True)
    sys.exit(status)

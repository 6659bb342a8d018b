"""Commands for people."""

import signal

import click

from gcorefs import __version__
from gcorefs.cli.dump import dump
from gcorefs.cli.mount import mount, umount
from gcorefs.cli.status import release, status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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

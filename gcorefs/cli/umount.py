"""gcorefs umount."""

import os

import click

from gcorefs.cli.named_path import NamedPath
from gcorefs.mount import mountpoints
from gcorefs.mount.mountpoints import MountError


@click.command()
@click.argument("mountpoint", type=NamedPath())
@click.option("-l", "--lazy", is_flag=True, help="Even while files are open.")
def umount(mountpoint: str, lazy: bool) -> None:
    """Take the mount at MOUNTPOINT away, even if its server is gone.

    Every process that is held is let go.
    """
    mountpoint = os.path.abspath(mountpoint)
    try:
        kind = mountpoints.fstype(mountpoint)
    except MountError as error:
        raise click.ClickException(str(error)) from error
    if kind not in mountpoints.KINDS:
        raise click.ClickException(f"{mountpoint}: no gcorefs is mounted there")
    try:
        # A mount without a server is taken away lazily: files that are open there keep it busy,
        # and nobody can read them any more.
        mountpoints.unmount(mountpoint, lazy or not mountpoints.answers(mountpoint))
    except MountError as error:
        raise click.ClickException(str(error)) from error

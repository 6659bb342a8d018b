"""gcorefs umount."""

import click

from gcorefs.cli.named_path import NamedPath, absolute
from gcorefs.mount import mountpoints
from gcorefs.mount.mountpoints import MountError, State


@click.command()
@click.argument("mountpoint", type=NamedPath())
@click.option("-l", "--lazy", is_flag=True, help="Even while files are open.")
def umount(mountpoint: str, lazy: bool) -> None:
    """Take the mount at MOUNTPOINT away, even if its server is gone.

    Every process that is held is let go.
    """
    try:
        mountpoint = mountpoints.place_of(absolute(mountpoint))
        kind = mountpoints.fstype(mountpoint)
    except MountError as error:
        raise click.ClickException(str(error)) from error
    if kind not in mountpoints.KINDS:
        raise click.ClickException(f"{mountpoint}: {mountpoints.NOT_MOUNTED}")
    # Without a server it is taken away lazily: files that are open there keep it busy, and nobody
    # can read them any more.  A server that only does not answer may still let processes go.
    state = None if lazy else mountpoints.state(mountpoint)
    try:
        mountpoints.unmount(mountpoint, state in (None, State.DEAD))
    except MountError as error:
        text = str(error)
        if state is State.SILENT:
            text += f" (its server does not answer: 'gcorefs umount --lazy {mountpoint}')"
        raise click.ClickException(text) from error

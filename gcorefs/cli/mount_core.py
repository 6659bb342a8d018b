"""gcorefs mount-core: a compressed core as a file that any program reads."""

import os
from collections.abc import Callable

import click
import trio

from gcorefs.cli import background
from gcorefs.cli.named_path import NamedPath, absolute
from gcorefs.export.seekable import SeekableError, SeekableFile
from gcorefs.mount import core_file, log
from gcorefs.mount.mountpoints import MountError, check_mountpoint


@click.command("mount-core")
@click.argument("file", type=NamedPath())
@click.argument("mountpoint", type=NamedPath())
@click.option("-f", "--foreground", is_flag=True, help="Stay, and log to standard error.")
def mount_core(file: str, mountpoint: str, foreground: bool) -> None:
    """Mount the content of a compressed core at MOUNTPOINT.

    FILE is what `gcorefs dump --compress zstd` has written: of core.1234.zst the file
    MOUNTPOINT/core.1234 is the content, of which only what is read is decompressed.  `gcorefs
    umount` takes it away.
    """
    background.open_standard_descriptors()
    mountpoint = absolute(mountpoint)
    name = os.path.basename(file).removesuffix(".zst")
    if name in ("", ".", ".."):
        name = "core"

    def run(on_ready: Callable[[], None]) -> None:
        log.start(log.to_stderr() if foreground else log.to_syslog())
        trio.run(core_file.serve, content, name, mountpoint, on_ready)

    try:
        mountpoint = check_mountpoint(mountpoint)
        with SeekableFile(file) as content:
            if foreground:
                run(lambda: None)
            else:
                background.run(run)
    except (MountError, SeekableError) as error:
        raise click.ClickException(str(error)) from error

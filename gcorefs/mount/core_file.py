"""A mount of one file: the content of a compressed core, for programs that need a file.

A debugger reads a few pages here and there.  So only the frames that it reads are decompressed,
and the last ones are kept.  The content never changes: the kernel may cache it.
"""

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ReaddirToken,
    RequestContext,
)

from gcorefs.export.seek_table import Frame
from gcorefs.export.seekable import SeekableError, SeekableFile
from gcorefs.kernel import ending_signals
from gcorefs.mount import entries
from gcorefs.mount.in_thread import with_room
from gcorefs.mount.log import logger
from gcorefs.mount.mountpoints import CORE_FSTYPE, MountError
from gcorefs.mount.readonly import ReadOnly
from gcorefs.process.threads import NoThread

_FILE = InodeT(2)
_MOST_KEPT = 64 << 20
"""Bytes of frames that are kept, beside the last one."""

_OF_A_FRAME = 256
"""Bytes that it costs to keep a frame, beside its content."""

_FOREVER = 3600.0
"""Seconds for which the kernel may keep what never changes."""

_OPTIONS = {
    "default_permissions", "nodev", "nosuid", "noexec", "ro", "fsname=gcorefs",
    f"subtype={CORE_FSTYPE.removeprefix('fuse.')}",
}  # fmt: skip


class CoreFile(ReadOnly):
    """The root directory and its only file, for the user who mounts it."""

    def __init__(self, content: SeekableFile, name: bytes) -> None:
        super().__init__()
        self._content = content
        self._name = name
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._kept_size = 0
        self._is_ending = False
        """Reads that are under way fail soon."""
        self._one = trio.CapacityLimiter(1)
        """Bytes of the compressed file may come from a slow disk or network."""

    def _entry(self, inode: InodeT) -> EntryAttributes:
        if inode == _FILE:
            uid, gid = os.geteuid(), os.getegid()
            entry = entries.core(_FILE, uid, gid, self._content.size, self._content.modified)
        else:
            entry = entries.own(inode, stat.S_IFDIR | 0o500, links=2)
        entry.attr_timeout = entry.entry_timeout = _FOREVER
        return entry

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        if name == self._name:
            return self._entry(_FILE)
        if name in (b".", b".."):
            return self._entry(pyfuse3.ROOT_INODE)
        raise FUSEError(errno.ENOENT)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._entry(inode)

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        if start_id == 0:
            pyfuse3.readdir_reply(token, FileNameT(self._name), self._entry(_FILE), 1)

    async def releasedir(self, fh: FileHandleT) -> None:
        pass

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=FileHandleT(inode), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        parts = []
        try:
            for frame in self._content.frames(off, size):
                content = memoryview(await self._of(frame))
                parts.append(content[max(0, off - frame.start) : max(0, off + size - frame.start)])
            return b"".join(parts)
        except SeekableError as error:
            logger.warning("%s", error)
            raise FUSEError(errno.EIO) from None
        except MemoryError:
            raise FUSEError(errno.ENOMEM) from None
        except NoThread:
            raise FUSEError(errno.EAGAIN) from None
        except Exception:  # it would end the mount
            logger.exception("read failed")
            raise FUSEError(errno.EIO) from None

    async def release(self, fh: FileHandleT) -> None:
        pass

    def end(self) -> None:
        """The mount is about to end."""
        self._is_ending = True

    async def _of(self, frame: Frame) -> bytes:
        """What a frame holds.  SeekableError: or the mount is about to end."""
        if self._is_ending:
            # A frame may take long and have one byte, and pyfuse3 ends after the last answer.
            why = "the mount ends before a read has all of its frames"
            raise SeekableError(os.fsdecode(self._name), why)
        async with self._one:  # nobody else has it decompressed at the same time
            content = self._kept.get(frame.start)
            if content is None:
                content = await trio.to_thread.run_sync(
                    self._content.content, frame, limiter=with_room()
                )
                self._kept[frame.start] = content
                self._kept_size += len(content) + _OF_A_FRAME
                while self._kept_size > _MOST_KEPT + len(content) + _OF_A_FRAME:
                    _, oldest = self._kept.popitem(last=False)
                    self._kept_size -= len(oldest) + _OF_A_FRAME
            self._kept.move_to_end(frame.start)
        return content


async def serve(
    content: SeekableFile, name: str, mountpoint: str, on_ready: Callable[[], None]
) -> None:
    """Mount, call `on_ready` when the mount answers, and serve until the unmount or a signal.

    MountError: the kernel or fusermount3 refuses.
    """
    # Before there is a mount: a signal would leave a dead one.
    early = ending_signals.remember()
    try:
        fs = CoreFile(content, os.fsencode(name))
        pyfuse3.init(fs, mountpoint, _OPTIONS)
    except RuntimeError as error:
        raise MountError(f"{mountpoint}: cannot be mounted: {error}") from error
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, fs, early)
            nursery.start_soon(_report, fs, on_ready)
            try:
                await pyfuse3.main()
            finally:
                nursery.cancel_scope.cancel()
    finally:
        ending_signals.ignore_all()
        pyfuse3.close(unmount=True)


async def _end_on_signal(fs: CoreFile, early: ending_signals.Remembered) -> None:
    with trio.open_signal_receiver(*early.numbers) as signals:
        if not early.come:
            await anext(aiter(signals))
        fs.end()
        pyfuse3.terminate()


async def _report(fs: CoreFile, on_ready: Callable[[], None]) -> None:
    await fs.serving.wait()
    on_ready()

"""A mount of one file.  Every read is answered from one buffer that never changes.

    python -m tests.benchmarks.static MOUNTPOINT MIB

This is the time that pyfuse3 and the kernel need for a read, and nothing else: the upper limit for
any file system of this kind.  Its options are those of gcorefs.  Prints {"pid": P} when the mount
answers.
"""

import json
import os
import stat
import sys
import time
from typing import cast

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FileNameT, FlagT, FUSEError, InodeT, ModeT, RequestContext

from gcorefs.mount.buffers import LARGEST_REQUEST
from gcorefs.mount.options import parse
from gcorefs.mount.readonly import ReadOnly

NAME = b"static"
_FILE = InodeT(2)
_MOST_REQUESTS = 10_000


class Static(ReadOnly):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._buffer = memoryview(os.urandom(LARGEST_REQUEST))

    def _entry(self, inode: InodeT) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_nlink = 1
        entry.st_mode = ModeT(stat.S_IFDIR | 0o555)
        entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = time.time_ns()
        entry.attr_timeout = entry.entry_timeout = 0
        if inode == _FILE:
            entry.st_mode = ModeT(stat.S_IFREG | 0o400)
            entry.st_size = self._size
            entry.st_blksize = LARGEST_REQUEST
            entry.st_blocks = self._size // 512
        return entry

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name != NAME:
            raise FUSEError(2)
        return self._entry(_FILE)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(inode)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode, direct_io=True, keep_cache=False)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        data = self._buffer[: max(0, min(size, self._size - off))]
        return cast(bytes, data)  # pyfuse3 takes any buffer, but its type says bytes

    async def release(self, fh: FileHandleT) -> None:
        pass


async def serve(mountpoint: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report, mountpoint)
        await pyfuse3.main(max_tasks=_MOST_REQUESTS)


async def report(mountpoint: str) -> None:
    await trio.to_thread.run_sync(os.stat, mountpoint)
    print(json.dumps({"pid": os.getpid()}), flush=True)


def main() -> None:
    _, mountpoint, mebibytes = sys.argv
    _, fuse_options = parse(["fsname=static"])
    fuse_options ^= {"subtype=gcorefs", "subtype=static"}  # nobody must take it for ours
    pyfuse3.init(Static(int(mebibytes) << 20), mountpoint, fuse_options)
    try:
        trio.run(serve, mountpoint)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()

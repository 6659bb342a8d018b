"""A FUSE file system in whose directory files can be created and written.  It keeps no byte.

python -m tests.mounted.notebook DIRECTORY
"""

import errno
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio

_FILE = pyfuse3.InodeT(2)


class Notebook(pyfuse3.Operations):
    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        is_file = inode == _FILE
        entry.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o600 if is_file else stat.S_IFDIR | 0o700)
        return entry

    async def lookup(
        self, parent: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def create(
        self,
        parent: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(_FILE)), await self.getattr(_FILE, ctx)

    async def write(self, fh: pyfuse3.FileHandleT, offset: int, data: bytes) -> int:
        return len(data)

    async def unlink(
        self, parent: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> None:
        pass

    async def forget(self, forgotten: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        pass


if __name__ == "__main__":
    pyfuse3.init(Notebook(), sys.argv[1], {"fsname=notebook"})
    trio.run(pyfuse3.main)

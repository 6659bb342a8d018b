"""failing MOUNTPOINT CALL ERRNO: a file system in which one call fails.

Files can be created, written, renamed and unlinked, in one directory and in memory.  CALL is write,
fsync, flush (the request of close(2)) or rename.  Prints {"pid": PID} when it is mounted; ends when
its standard input ends.
"""

import errno
import json
import os
import stat
import sys

import pyfuse3
import trio
from pyfuse3 import FUSEError, RequestContext


class Failing(pyfuse3.Operations):
    def __init__(self, call: str, number: int) -> None:
        super().__init__()
        self.call = call
        self.number = number
        self.names: dict[bytes, int] = {}
        self.contents: dict[int, bytearray] = {}

    def attempt(self, call: str) -> None:
        if call == self.call:
            raise FUSEError(self.number)

    async def getattr(
        self, inode: int, ctx: RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        is_root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o755 if is_root else stat.S_IFREG | 0o600
        entry.st_size = len(self.contents.get(inode, b""))
        entry.attr_timeout = entry.entry_timeout = 0
        return entry

    async def lookup(
        self, parent: int, name: bytes, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name not in self.names:
            raise FUSEError(errno.ENOENT)
        return await self.getattr(self.names[name])

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        inode = self.names[name] = pyfuse3.ROOT_INODE + 1 + len(self.contents)
        self.contents[inode] = bytearray()
        return pyfuse3.FileInfo(fh=inode), await self.getattr(inode)

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(self.contents[fh][offset : offset + size])

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        self.attempt("write")
        self.contents[fh][offset : offset + len(data)] = data
        return len(data)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self.attempt("fsync")

    async def flush(self, fh: int) -> None:
        self.attempt("flush")

    async def rename(
        self, parent: int, old: bytes, new_parent: int, new: bytes, flags: int, ctx: RequestContext
    ) -> None:
        self.attempt("rename")
        self.names[new] = self.names.pop(old)

    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        del self.names[name]

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        for number, (name, inode) in enumerate(list(self.names.items())[start:], start + 1):
            if not pyfuse3.readdir_reply(token, name, await self.getattr(inode), number):
                break


async def serve() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        print(json.dumps({"pid": os.getpid()}), flush=True)
        async for _ in trio.wrap_file(sys.stdin):
            pass
        pyfuse3.terminate()


def main() -> None:
    mountpoint, call, number = sys.argv[1:]
    failing = Failing(call, int(number))
    pyfuse3.init(failing, mountpoint, {"fsname=failing", *pyfuse3.default_options})
    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()

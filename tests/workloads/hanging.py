"""A FUSE file server that can stop answering: `python hanging.py MOUNTPOINT`.

It serves one file, "library", which begins as an ELF file does; after that, each page has its own
number.  First line: {"pid": P}.  It answers "hush" on standard input with {"hushed": 1}, and then
answers no more reads.  It answers "hold" with {"held": 1}, and then answers no close (FUSE_FLUSH)
until "let", which it answers with {"let": N}.  It answers "closing" with {"closing": N}: the number
of closes that wait.
"""

import errno
import json
import os
import stat
import sys

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, RequestContext

PAGE = 4096
PAGES = 1024
FILE = pyfuse3.InodeT(2)


def content(number: int) -> bytes:
    """The content of page `number` of the file."""
    return (b"\x7fELF" if number == 0 else b"page") + number.to_bytes(4, "little") * 1023


CONTENT = b"".join(map(content, range(PAGES)))


class Server(pyfuse3.Operations):
    def __init__(self) -> None:
        super().__init__()
        self.is_silent = False
        self.may_close = trio.Event()
        self.may_close.set()
        self.closing = 0

    async def getattr(
        self, inode: InodeT, ctx: RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFREG | 0o755 if inode == FILE else stat.S_IFDIR | 0o755
        entry.st_size = len(CONTENT)
        entry.st_nlink = 1
        entry.attr_timeout = entry.entry_timeout = 1e6
        return entry

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        if name != b"library":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILE)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        if self.is_silent:
            await trio.sleep_forever()
        return CONTENT[off : off + size]

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        self.closing += 1
        await self.may_close.wait()
        self.closing -= 1


async def obey(server: Server) -> None:
    print(json.dumps({"pid": os.getpid()}), flush=True)
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        if line == "hush\n":
            server.is_silent = True
            print(json.dumps({"hushed": 1}), flush=True)
        elif line == "hold\n":
            server.may_close = trio.Event()
            print(json.dumps({"held": 1}), flush=True)
        elif line == "closing\n":
            print(json.dumps({"closing": server.closing}), flush=True)
        elif line == "let\n":
            server.may_close.set()
            print(json.dumps({"let": server.closing}), flush=True)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(obey, server)
        await pyfuse3.main(max_tasks=1000)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    server = Server()
    pyfuse3.init(server, sys.argv[1], {"fsname=hanging", "allow_other"})
    trio.run(main)
    pyfuse3.close()

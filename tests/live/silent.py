"""silent MOUNTPOINT [FILE]: a file system with one file, which answers reads on command.

Prints {"pid": PID} when it is mounted, {"asked": N} for "asked" (the number of reads so far) and
{"answered": N} for "answer" (the number of reads that it has answered now).  Ends when its standard
input ends.  The file has 4 KiB of the letter A.

With FILE, its file has that content, and every read is answered.  After "silence", which prints
{"silence": true}, no open is answered any more; after "refuse", each open fails.
"""

import errno
import json
import os
import stat
import sys
from pathlib import Path

import pyfuse3
import trio

CONTENT = b"A" * 4096
FILE = pyfuse3.ROOT_INODE + 1


class Silent(pyfuse3.Operations):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.content = CONTENT
        self.answer = trio.Event()
        self.opens = trio.Event()
        self.opens.set()
        self.refuses = False

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = (
            stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o755
        )
        entry.st_size = len(self.content)
        entry.attr_timeout = entry.entry_timeout = 3600
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: object = None) -> pyfuse3.EntryAttributes:
        if name != b"file":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILE)

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        if self.refuses:
            raise pyfuse3.FUSEError(errno.EIO)
        await self.opens.wait()
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        self.asked += 1
        await self.answer.wait()
        return self.content[offset : offset + size]


async def serve(silent: Silent) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        print(json.dumps({"pid": os.getpid()}), flush=True)
        async for line in trio.wrap_file(sys.stdin):
            if line == "answer\n":
                silent.answer.set()
                print(json.dumps({"answered": silent.asked}), flush=True)
            elif line == "silence\n":
                silent.opens = trio.Event()
                print(json.dumps({"silence": True}), flush=True)
            elif line == "refuse\n":
                silent.refuses = True
                print(json.dumps({"refuse": True}), flush=True)
            else:
                print(json.dumps({"asked": silent.asked}), flush=True)
        silent.answer.set()
        silent.opens.set()
        pyfuse3.terminate()


def main() -> None:
    silent = Silent()
    if len(sys.argv) > 2:
        silent.content = Path(sys.argv[2]).read_bytes()
        silent.answer.set()
    pyfuse3.init(silent, sys.argv[1], {"fsname=silent", *pyfuse3.default_options})
    try:
        trio.run(serve, silent)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()

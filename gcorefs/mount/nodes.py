"""What stands in the mount: a tree of nodes, each a directory or a file.

fs.py finds a node by its number and asks it.  A kind of node is one class: what it does not answer
fails as it does for a file of that kind.
"""

import errno
import os
import select
import stat as modes
from collections.abc import Sequence
from typing import Protocol

import pyfuse3
from pyfuse3 import EntryAttributes, FlagT, FUSEError, RequestContext

from gcorefs.mount import entries
from gcorefs.mount.cores import PollHandle

READY = select.POLLIN | select.POLLRDNORM | select.POLLOUT | select.POLLWRNORM


class OpenFile(Protocol):
    """An open file.  The kernel asks for nothing that the flags of open(2) do not allow."""

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Bytes that are good until the event loop turns."""
        raise FUSEError(errno.EBADF)

    async def write(self, data: bytes) -> int:
        """How many of the bytes were taken."""
        raise FUSEError(errno.EBADF)

    def poll(self, poll_handle: PollHandle | None) -> int:
        """Events that are there now; `poll_handle` is told of later ones."""
        return READY

    def release(self) -> None:
        """The last descriptor of it was closed."""


class Reply(Protocol):
    """The answer to a reader of a directory."""

    def __call__(self, name: bytes, entry: EntryAttributes, identifier: int) -> bool:
        """False where the entry finds no room.  The reader asks again from after the `identifier`
        of the entry before it."""


class OpenDirectory(Protocol):
    """An open directory."""

    async def read(self, start: int, reply: Reply) -> None:
        """Give `reply` the entries after the one that is called `start`, as long as it takes them.

        The kernel has one more reference to each that is taken, save for the dots.
        """

    def release(self) -> None:
        """The last descriptor of it was closed."""


class Node(Protocol):
    """A directory or a file."""

    async def lookup(self, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """What a name in this directory is.  The kernel has one more reference to that.  ENOENT"""
        raise FUSEError(errno.ENOTDIR)

    async def attributes(self, ctx: RequestContext) -> EntryAttributes:
        """What fstat(2) shows."""
        raise NotImplementedError

    def xattr_names(self, ctx: RequestContext) -> Sequence[bytes]:
        """The extended attributes that the caller may get."""
        return ()

    async def xattr(self, name: bytes, ctx: RequestContext) -> bytes | None:
        """An extended attribute; None where there is none of this name for the caller."""
        return None

    async def open(self, flags: FlagT, ctx: RequestContext) -> OpenFile:
        """The file, where the caller may have it opened so."""
        raise FUSEError(errno.EISDIR)

    async def open_directory(self, ctx: RequestContext) -> OpenDirectory:
        """The directory, to be listed."""
        raise FUSEError(errno.ENOTDIR)


def refuse_writers(flags: FlagT) -> None:
    """EROFS for an open(2) that may change the file."""
    if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
        raise FUSEError(errno.EROFS)


class OwnNode(Node):
    """A directory or file of the mount itself, which stands for no process.  Everybody knows it."""

    number: int
    mode: int
    links = 1

    def entry(self) -> EntryAttributes:
        return entries.own(self.number, self.mode, self.links)

    async def attributes(self, ctx: RequestContext) -> EntryAttributes:
        return self.entry()


class OwnDirectory(OwnNode):
    mode = modes.S_IFDIR | 0o555
    links = 2  # itself, and its entry in its directory


def reply_dots(start: int, reply: Reply) -> bool:
    """The first two entries of every directory, called 1 and 2.  readdir(3) has their number alone,
    which is that of the root in every directory."""
    root = entries.own(pyfuse3.ROOT_INODE, OwnDirectory.mode, OwnDirectory.links)
    return all(
        start >= identifier or reply(name, root, identifier)
        for identifier, name in ((1, b"."), (2, b".."))
    )

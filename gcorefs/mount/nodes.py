"""The contents of the mount: a tree of nodes, each a directory or a file.

fs.py finds a node by its number and calls it.  Each kind of node is a class.  A request that a node
does not support fails as for any file of that kind.
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
    """An open file.  The kernel sends only the requests that the flags of open(2) allow."""

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Bytes that are good until the event loop turns."""
        raise FUSEError(errno.EBADF)

    async def write(self, data: bytes) -> int:
        """Returns how many of the bytes were taken."""
        raise FUSEError(errno.EBADF)

    def poll(self, poll_handle: PollHandle | None) -> int:
        """The events that are there now.  Notify `poll_handle` of later ones."""
        return READY

    def release(self) -> None:
        """The last descriptor of the file was closed."""


class Reply(Protocol):
    """The answer to a reader of a directory."""

    def __call__(self, name: bytes, entry: EntryAttributes, identifier: int) -> bool:
        """False if there is no room for the entry.  The reader then asks again, with the
        `identifier` of the last entry that it got."""


class OpenDirectory(Protocol):
    """An open directory."""

    async def read(self, start: int, reply: Reply) -> None:
        """Give `reply` the entries after the one with the identifier `start`, until it is full.

        The kernel gets one more reference to each entry that is taken, except the dots.
        """

    def release(self) -> None:
        """The last descriptor of the directory was closed."""


class Node(Protocol):
    """A directory or a file."""

    async def lookup(self, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """The node with a name in this directory.  The kernel gets one more reference to it.
        ENOENT."""
        raise FUSEError(errno.ENOTDIR)

    async def attributes(self, ctx: RequestContext) -> EntryAttributes:
        """The attributes for fstat(2)."""
        raise NotImplementedError

    def xattr_names(self, ctx: RequestContext) -> Sequence[bytes]:
        """The extended attributes that the caller may get."""
        return ()

    async def xattr(self, name: bytes, ctx: RequestContext) -> bytes | None:
        """An extended attribute; None if the caller may get none of this name."""
        return None

    async def open(self, flags: FlagT, ctx: RequestContext) -> OpenFile:
        """Open the file, if the caller may open it with these flags."""
        raise FUSEError(errno.EISDIR)

    async def open_directory(self, ctx: RequestContext) -> OpenDirectory:
        """Open the directory for a listing."""
        raise FUSEError(errno.ENOTDIR)


def refuse_writers(flags: FlagT) -> None:
    """EROFS for an open(2) that may change the file."""
    if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
        raise FUSEError(errno.EROFS)


class OwnNode(Node):
    """A directory or file of the mount itself, which belongs to no process.  Everybody sees it."""

    number: int
    mode: int
    links = 1

    def of(self, uid: int) -> "OwnNode":
        """The node that `uid` finds under this name."""
        return self

    def entry(self) -> EntryAttributes:
        return entries.own(self.number, self.mode, self.links)

    async def attributes(self, ctx: RequestContext) -> EntryAttributes:
        return self.entry()


class OwnDirectory(OwnNode):
    mode = modes.S_IFDIR | 0o555
    links = 2  # itself, and its entry in its directory


def reply_dots(start: int, reply: Reply) -> bool:
    """The first two entries of every directory, with the identifiers 1 and 2.  readdir(3) shows
    only their inode number, which is that of the root in every directory."""
    root = entries.own(pyfuse3.ROOT_INODE, OwnDirectory.mode, OwnDirectory.links)
    return all(
        start >= identifier or reply(name, root, identifier)
        for identifier, name in ((1, b"."), (2, b".."))
    )

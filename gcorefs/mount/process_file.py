"""The file of a process: its attributes, and its core after an open."""

import errno
import time
from collections.abc import Sequence

from pyfuse3 import EntryAttributes, FlagT, FUSEError, RequestContext

from gcorefs.errors import Refusal
from gcorefs.look import Look
from gcorefs.mount import core_report, entries
from gcorefs.mount.cores import Handle, PollHandle, SharedCore
from gcorefs.mount.held import Held
from gcorefs.mount.inodes import Inode, Listed
from gcorefs.mount.limits import Budget, Kept, Limits
from gcorefs.mount.looks import Looks
from gcorefs.mount.nodes import Node, OpenFile, refuse_writers
from gcorefs.mount.sight import is_everybodys
from gcorefs.process.errors import Reason

_MOST_TRIES = 100

# xattr(7): the prefix of attributes whose meaning users define.
_XATTR_PREFIX = b"user.gcorefs."


class ProcessFile(Node):
    """One inode: its attributes and its open files."""

    def __init__(self, inode: Inode, looks: Looks, held: Held, limits: Limits) -> None:
        self._inode = inode
        self._looks = looks
        self._held = held
        self._limits = limits

    async def attributes(self, ctx: RequestContext) -> EntryAttributes:
        for _ in range(_MOST_TRIES):  # again if a stop began meanwhile
            core = self._inode.shown
            entry = await self._attributes_with(core, ctx)
            if self._inode.shown in (None, core):
                return entry
        raise FUSEError(errno.ESTALE)

    async def _attributes_with(
        self, core: SharedCore | None, ctx: RequestContext
    ) -> EntryAttributes:
        """ESTALE if the caller must look the name up again.  It then finds the outsiders' inode."""
        inode = self._inode
        # A caller that may not open the file may still have it open, but nobody can open the
        # outsiders' inode.
        number = 0 if inode.is_outsiders else inode.number
        try:
            found = await self._looks.look(inode.process.pid, ctx, number)
        except Refusal as error:
            # The process may have become a set-uid program since its memory was copied.  The copy
            # can still be read.
            if error.reason is not Reason.NOT_SHOWN or not inode.core or not inode.core.size:
                raise
            found = None
        is_bare = found is not None and found.is_name_only and not inode.is_outsiders
        if is_bare or not await self._looks.is_shown(core, ctx, number):
            raise FUSEError(errno.ESTALE)
        if found is None or found.process != inode.process:
            return _entry_of_the_gone(inode)
        await self._held.await_requested(inode, ctx)
        await self._looks.await_size(inode, ctx)
        inode.seen = await self._looks.with_size(found, inode, ctx)
        if not inode.seen.estimate and core is not None and core.bytes.error is not None:
            # It died while its core was made.  With a size of 0, tar and sendfile(2) would take an
            # empty file for all that there is, and never read.
            raise core.bytes.error.bare()
        return entry_of(inode, inode.seen)

    def xattr_names(self, ctx: RequestContext) -> Sequence[bytes]:
        # The kernel checks the permission to get an attribute, but not the permission to list their
        # names (fs/xattr.c, listxattr).
        core = self._inode.core
        if core is None or not (is_everybodys(ctx.uid) or core.holders.include(ctx.uid)):
            return ()
        return tuple(self._xattrs())

    async def xattr(self, name: bytes, ctx: RequestContext) -> bytes | None:
        if not name.startswith(_XATTR_PREFIX):
            return None
        if not await self._looks.is_shown(self._inode.core, ctx, self._inode.number):
            return None
        return self._xattrs().get(name)

    def _xattrs(self) -> dict[bytes, bytes]:
        core = self._inode.core
        attributes = core_report.attributes(core) if core else {}
        return {_XATTR_PREFIX + name.encode(): value.encode() for name, value in attributes.items()}

    async def open(self, flags: FlagT, ctx: RequestContext) -> OpenFile:
        refuse_writers(flags)
        limits, pid = self._limits, self._inode.process.pid
        with limits.requests.lent(ctx.uid, pid), limits.files.kept(ctx.uid, pid) as kept:
            handle = await self._held.open(self._inode, flags, ctx)
            return _CoreFile(handle, self._held, limits.requests, kept)


class _CoreFile(OpenFile):
    def __init__(self, handle: Handle, held: Held, requests: Budget, kept: Kept) -> None:
        self._handle = handle
        self._held = held
        self._requests = requests
        self._kept = kept

    async def read(self, offset: int, length: int) -> memoryview:
        handle = self._handle
        data = handle.core.bytes.at_hand(handle, offset, length)
        if data is None:
            with self._requests.lent(self._kept.uid, handle.core.process.pid):
                data = await handle.core.bytes.read(handle, offset, length)
        return data

    def poll(self, poll_handle: PollHandle | None) -> int:
        return self._handle.core.poll(self._handle, poll_handle)

    def release(self) -> None:
        self._kept.give_back()
        self._held.leave(self._handle)


def entry_of(inode: Inode | Listed, found: Look) -> EntryAttributes:
    """The attributes for stat(2) of a process that was looked at just now."""
    core = inode.shown
    # A core is made when it is opened.  Until then it has the time of now, which is newer than any
    # file made from it, so that cp -u and rsync copy it again.
    began = core.began if core else time.time_ns()
    size = core.size if core else None
    if size is None:
        size = found.estimate
    return entries.core(inode.number, found.uid, found.gid, size, began)


def _entry_of_the_gone(inode: Inode) -> EntryAttributes:
    """The attributes for fstat(2) of a file whose process has exited.  Its header can still be
    read."""
    core = inode.core
    if core is None or core.size is None:
        raise FUSEError(errno.ESRCH)
    return entries.core(inode.number, 0, 0, core.size, core.began)

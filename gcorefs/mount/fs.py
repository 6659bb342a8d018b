"""The protocol adapter.

Rules of this file:
- It translates and decides nothing: who may is access's affair, when it stops and when it is
  let go is a stop's.
- Only FUSEError leaves a handler: any other exception would end the whole mount.  _answered
  is the one place where errors become errnos.
- Nothing in a handler blocks the event loop.  Whatever may wait, every file of /proc among
  it, is asked in a thread and under a bound (listing.py says why).
"""

import dataclasses
import errno
import functools
import math
import os
import select
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3
from pyfuse3 import FileHandleT, FileNameT, FlagT, FUSEError, InodeT, ModeT, XAttrNameT

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.errors import Refusal
from gcorefs.kernel.proc import current_call
from gcorefs.mount import control, entries, names
from gcorefs.mount.control import ReleaseFile, StatusFile, StatusTexts
from gcorefs.mount.cores import Handle, SharedCore
from gcorefs.mount.crew import Crew
from gcorefs.mount.errors import RequestReason
from gcorefs.mount.held import Held
from gcorefs.mount.inodes import Inode, Inodes, Listed, Reference
from gcorefs.mount.limits import Budget, Limits
from gcorefs.mount.listing import (
    ESTIMATE_TIMEOUT,
    Look,
    Questions,
    estimate,
    rough_estimate,
)
from gcorefs.mount.log import logger
from gcorefs.mount.options import Options
from gcorefs.mount.readonly import ReadOnly
from gcorefs.mount.refusals import Refusals
from gcorefs.mount.sight import Caller, Sight
from gcorefs.mount.workers import Workers
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason, is_no_memory

_SIZE_TIMEOUT = 5.0
_MOST_TRIES = 100

_USER_STATUS_FILES = 32
"""Status files that one user may have open: each keeps its text, of as many stops as are held."""

# xattr(7): what users may give a meaning to begins like this.
_XATTR_PREFIX = b"user.gcorefs."

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Method = Callable[Concatenate["GcoreFS", _P], Coroutine[Any, Any, _T]]


def _answered(method: _Method[_P, _T]) -> _Method[_P, _T]:
    """The error boundary: every exception becomes an errno, a surprise EIO and a traceback."""

    @functools.wraps(method)
    async def handler(self: "GcoreFS", *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(self, *args, **kwargs)
        except FUSEError:
            raise
        except Refusal as error:
            self._refusals.log(error)
            raise FUSEError(error.errno or errno.EIO) from None
        except BlockingIOError:
            raise FUSEError(errno.EAGAIN) from None
        except Exception as error:
            if is_no_memory(error):
                self._refusals.log(ProcessError(Reason.NO_MEMORY, 0))
                raise FUSEError(errno.ENOMEM) from None
            logger.exception("%s failed", method.__name__)
            raise FUSEError(errno.EIO) from None

    return cast(_Method[_P, _T], handler)


@dataclass(frozen=True, slots=True)
class _File:
    """An open file, or an open directory: the pids to list, which are asked for when it is read,
    or the names of control files."""

    uid: int
    content: Handle | StatusFile | ReleaseFile | list[int] | Mapping[bytes, int]
    budget: Budget
    """Where it counts."""
    viewer: Opener | None = None
    """Whose eyes count in a listing; None where /proc hides nothing from who opened it."""


class GcoreFS(ReadOnly):
    def __init__(self, options: Options, crew: Crew) -> None:
        super().__init__()
        self._limits = Limits(options)
        workers = Workers(self._limits, crew)
        self.windows = workers.windows
        self._questions = workers.questions
        # Threads of their own: what holds up a look through the mappings holds up nothing else.
        self._estimates = Questions()
        self._keeps_lost_files = options.memory == "filter"
        self._may_ask = options.open_timeout > 0
        self.held = Held(options, self._limits, workers)
        self._status = StatusTexts(self.held)
        self._status_files = Budget(
            _USER_STATUS_FILES, sys.maxsize, RequestReason.USER_FILES, RequestReason.ALL_FILES
        )
        self._inodes = Inodes()
        self._view = self._inodes.view(options.policy)
        self._refusals = Refusals()
        self._sight = Sight()
        self._files: dict[int, _File] = {}
        self._next_handle = 1

    def mounted_as(self, device: int) -> None:
        """`device`: st_dev of the files here."""
        self._sight.mounted_as(device)

    # Names.

    @_answered
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name in (b".", b".."):
            return entries.own(pyfuse3.ROOT_INODE)
        if parent_inode == control.EXACT:
            pid = names.pid_of(name)
            if not (pid and self._may_ask):
                raise FUSEError(errno.ENOENT)
            return await self._lookup_exact(pid, ctx)
        if parent_inode == control.DIRECTORY:
            if name not in control.BY_NAME:
                raise FUSEError(errno.ENOENT)
            return entries.own(control.BY_NAME[name])
        if name == names.DIRECTORY:
            return entries.own(control.DIRECTORY)
        pid = names.pid_of(name)
        if not pid:
            raise FUSEError(errno.ENOENT)
        return await self._lookup_process(pid, ctx)

    async def _lookup_process(
        self, pid: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """The file of a process, or the one that is for those who may not open it."""
        found = await self._sought(pid, ctx)
        for _ in range(_MOST_TRIES):  # once more where a stop began meanwhile
            core = self._view.core_of(found.process)
            is_outsider = found.is_name_only or not await self._is_shown(core, ctx)
            with self._view.held(found.process, is_outsider) as reference:
                found = await self._with_size(found, reference.inode, ctx)
                if reference.inode.shown not in (None, core):
                    continue
                return self._looked_up(reference, found)
        raise FUSEError(errno.ESTALE)

    async def _lookup_exact(self, pid: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """A process with its exact size, which takes its being stopped: the look-up asks for that
        as open(2) does, and answers once the core is ready.

        tar, cpio, rclone and the like ask for the size first, write it down, and open the file
        then; whoever does so finds the stop that the look-up began.  It is the same inode.
        """
        found = await self._sought(pid, ctx)
        with self._view.held(found.process) as reference:
            with self._limits.requests.lent(ctx.uid, pid):
                await self.held.request(reference.inode, ctx)
            found = await self._with_size(found, reference.inode, ctx)
            return self._looked_up(reference, found)

    async def _sought(self, pid: int, ctx: pyfuse3.RequestContext) -> Look:
        self._view.seek(pid)
        found = await self._look(pid, ctx)
        if found is None:
            raise FUSEError(errno.ENOENT)
        return found

    def _looked_up(self, reference: Reference, found: Look) -> pyfuse3.EntryAttributes:
        """The kernel remembers the inode from here on."""
        reference.inode.seen = found
        entry = self._entry(reference.inode, found)
        reference.keep()
        return entry

    @_answered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, lookups in inode_list:
            if not entries.is_own(number):
                self._inodes.forget(number, lookups)

    @_answered
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if entries.is_own(inode):
            return entries.own(inode)
        wanted = self._inodes[inode]
        for _ in range(_MOST_TRIES):  # once more where a stop began meanwhile
            core = wanted.shown
            entry = await self._attributes_of(wanted, core, ctx)
            if wanted.shown in (None, core):
                return entry
        raise FUSEError(errno.ESTALE)

    async def _attributes_of(
        self, wanted: Inode, core: SharedCore | None, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """What fstat(2) shows of a process.

        ESTALE where the caller is to look its name up, and find the inode of outsiders.
        """
        # It may be open to who may not open it, but not the outsiders' inode.
        number = 0 if wanted.is_outsiders else wanted.number
        try:
            found = await self._look(wanted.process.pid, ctx, number)
        except Refusal as error:
            # A copy outlives what /proc shows: the process may run a set-uid program by now.
            if error.reason is not Reason.NOT_SHOWN or not wanted.core or not wanted.core.size:
                raise
            found = None
        is_bare = found is not None and found.is_name_only and not wanted.is_outsiders
        if is_bare or not await self._is_shown(core, ctx, number):
            raise FUSEError(errno.ESTALE)
        if found is None or found.process != wanted.process:
            return self._entry_of_the_gone(wanted)
        await self._await_size(wanted, ctx)
        wanted.seen = await self._with_size(found, wanted, ctx)
        return self._entry(wanted, wanted.seen)

    @_answered
    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> Sequence[XAttrNameT]:
        # The kernel asks nobody for permission to list (fs/xattr.c, listxattr), only to get.
        core = self._core_of(inode)
        if core is None or not (control.is_everybodys(ctx.uid) or core.holders.include(ctx.uid)):
            return []
        return [XAttrNameT(_XATTR_PREFIX + name) for name in self._attributes(inode)]

    @_answered
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        value = None
        core = self._core_of(inode)
        if name.startswith(_XATTR_PREFIX) and await self._is_shown(core, ctx, inode):
            value = self._attributes(inode).get(name.removeprefix(_XATTR_PREFIX))
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    @_answered
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        budget = self._limits.others
        with budget.kept(ctx.uid, 0):
            if inode == pyfuse3.ROOT_INODE:
                viewer = await self._viewer(ctx)
                return self._add(_File(ctx.uid, [], budget, viewer))
            listed = control.BY_NAME if inode == control.DIRECTORY else {}
            return self._add(_File(ctx.uid, listed, budget))

    @_answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        # Identifiers: 1 and 2 for the dots, then pid + 2, so that a process that comes or
        # goes between two calls moves nobody else.
        listing = self._files[fh]
        pids = cast(list[int] | Mapping[bytes, int], listing.content)
        if isinstance(pids, list) and (start_id == 0 or not pids):
            pids[:] = await self._pids(listing.viewer, listing.uid)
        root = entries.own(pyfuse3.ROOT_INODE)
        for identifier, name in ((1, b"."), (2, b"..")):
            if start_id < identifier and not _reply(token, name, root, identifier):
                return
        if not isinstance(pids, list):
            for name, number in pids.items():  # numbers above those of the dots
                if start_id < number and not _reply(token, name, entries.own(number), number):
                    return
            return
        blank = entries.listed()
        for pid in pids[bisect_right(pids, start_id - 2) :]:
            inode = self._view.listed(pid)
            if isinstance(inode, Listed) or inode.seen is None:
                entry = blank
                entry.st_ino = InodeT(inode.number)
            else:  # all of it: somebody may be about to open it, or have it open
                entry = self._entry(inode, inode.seen)
            if not _reply(token, b"%d" % pid, entry, pid + 2):
                self._inodes.forget(inode.number, 1)
                return

    @_answered
    async def releasedir(self, fh: FileHandleT) -> None:
        self._close(fh)

    @_answered
    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        return True  # default_permissions: the kernel has already judged the mode

    # Files.

    @_answered
    async def open(
        self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        if inode == control.RELEASE:
            if flags & os.O_ACCMODE != os.O_WRONLY:
                raise FUSEError(errno.EACCES)
        elif flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        found = None if entries.is_own(inode) else self._inodes[inode]
        pid = found.process.pid if found else 0
        budget = self._limits.files if found else self._limits.others
        if inode == control.STATUS:
            budget = self._status_files
        with self._limits.requests.lent(ctx.uid, pid), budget.kept(ctx.uid, pid):
            content: Handle | StatusFile | ReleaseFile
            if found is not None:
                content = await self.held.open(found, flags, ctx)
            elif inode == control.STATUS:
                content = StatusFile(await self._status.of(ctx.uid))
            else:
                shows = functools.partial(self._shows, await self._viewer(ctx), ctx.uid)
                content = ReleaseFile(self.held, ctx.uid, ctx.pid, shows)
        number = self._add(_File(ctx.uid, content, budget))
        return pyfuse3.FileInfo(fh=number, direct_io=True, keep_cache=False)

    @_answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        file = self._files[fh]
        if isinstance(file.content, StatusFile):
            return file.content.read(off, size)
        handle = cast(Handle, file.content)
        data = handle.core.at_hand(handle, off, size)
        if data is None:
            with self._limits.requests.lent(file.uid, handle.core.process.pid):
                data = await handle.core.read(handle, off, size)
        return cast(bytes, data)  # pyfuse3 takes any buffer and says bytes

    @_answered
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await cast(ReleaseFile, self._files[fh].content).write(buf)

    @_answered
    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: pyfuse3.PollHandle | None,
        ctx: pyfuse3.RequestContext,
    ) -> int:
        content = self._files[fh].content
        if isinstance(content, Handle):
            return content.core.poll(content, poll_handle)
        return select.POLLIN | select.POLLRDNORM | select.POLLOUT | select.POLLWRNORM

    @_answered
    async def flush(self, fh: FileHandleT) -> None:
        """Nothing: a file may be closed many times (dup, fork) before it is released."""

    @_answered
    async def release(self, fh: FileHandleT) -> None:
        content = self._close(fh).content
        if isinstance(content, Handle):
            self.held.leave(content)

    @_answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = PAGE_SIZE
        data.f_namemax = 10
        return data

    # What they lean on.

    def _add(self, file: _File) -> FileHandleT:
        self._next_handle += 1
        self._files[self._next_handle] = file
        return FileHandleT(self._next_handle)

    def _close(self, number: int) -> _File:
        file = self._files.pop(number)
        file.budget.give_back(file.uid)
        return file

    async def _viewer(self, ctx: pyfuse3.RequestContext) -> Opener | None:
        if self._sight.is_known_open(ctx.uid):
            return None
        return await self._ask(0, ctx.uid, functools.partial(self._sight.viewer, _caller(ctx)))

    async def _pids(self, viewer: Opener | None, uid: int) -> list[int]:
        return await self._ask(0, uid, functools.partial(self._sight.pids, viewer, uid))

    async def _shows(self, viewer: Opener | None, uid: int, pid: int) -> bool:
        return await self._ask(pid, uid, functools.partial(self._sight.shows, viewer, uid, pid))

    async def _look(self, pid: int, ctx: pyfuse3.RequestContext, number: int = 0) -> Look | None:
        question = functools.partial(self._sight.look, pid, _caller(ctx), number)
        return await self._ask(pid, ctx.uid, question)

    async def _is_shown(
        self, core: SharedCore | None, ctx: pyfuse3.RequestContext, number: int = 0
    ) -> bool:
        """True where the caller may know of a core: they may open it, or have it open as inode
        `number`."""
        if core is None or control.is_everybodys(ctx.uid) or core.holders.include(ctx.uid):
            return True
        pid, caller = core.process.pid, _caller(ctx)
        question = functools.partial(self._sight.opener, pid, caller)
        opener = await self._ask(pid, ctx.uid, question)
        if opener is not None and core.is_for(opener):
            return True
        has_open = functools.partial(self._sight.has_open, caller, number)
        return bool(number) and await self._ask(pid, ctx.uid, has_open)

    async def _ask(self, pid: int, uid: int, question: Callable[[], _T]) -> _T:
        with self._limits.requests.lent(uid, pid):
            return await self._questions.ask(pid, uid, question)

    async def _with_size(self, found: Look, inode: Inode, ctx: pyfuse3.RequestContext) -> Look:
        """The same with an estimate of the size, where the size itself is not known."""
        core, pid, seen = inode.shown, inode.process.pid, inode.seen
        if core is not None and core.size is not None:
            return dataclasses.replace(found, estimate=core.size, at=-math.inf)
        if seen is not None and seen.has_estimate_for(found):
            return dataclasses.replace(found, estimate=seen.estimate, at=seen.at)
        with self._limits.requests.lent(ctx.uid, pid):
            question = functools.partial(estimate, found, self._keeps_lost_files)
            try:
                size = await self._estimates.ask(pid, ctx.uid, question, ESTIMATE_TIMEOUT)
            except Refusal as error:  # not in time
                logger.debug("process %d: its size is a rough guess: %s", pid, error)
                size = rough_estimate(found)
        return dataclasses.replace(found, estimate=size, at=time.monotonic())

    async def _await_size(self, inode: Inode, ctx: pyfuse3.RequestContext) -> None:
        """Until st_size is exact, within a bound: cp and cat ask once, right after open(2).

        Not for an open(2) that comes second: the kernel asks on its behalf, for the mode.
        """
        core, pid = inode.core, inode.process.pid
        if core is None or core.is_ready:
            return
        with self._limits.requests.lent(ctx.uid, pid):
            question = functools.partial(current_call.is_opening, ctx.pid)
            if not await self._questions.ask(pid, ctx.uid, question):
                await core.wait_until_ready(_SIZE_TIMEOUT)

    def _core_of(self, inode: int) -> SharedCore | None:
        """The core of a process's file; None for our own, and where there is none."""
        return None if entries.is_own(inode) else self._inodes[inode].core

    def _attributes(self, inode: int) -> dict[bytes, bytes]:
        """Extended attributes without what is common to their names."""
        core = self._core_of(inode)
        attributes = core.attributes() if core else {}
        return {name.encode(): value.encode() for name, value in attributes.items()}

    def _entry(self, inode: Inode, found: Look) -> pyfuse3.EntryAttributes:
        core = inode.shown
        # A core is made when it is opened.  Until then it is newer than any copy, so that cp -u
        # and rsync take it again.
        began = core.began if core else time.time_ns()
        size = core.size if core else None
        if size is None:
            size = found.estimate
        return entries.core(inode, found.uid, found.gid, size, began)

    def _entry_of_the_gone(self, inode: Inode) -> pyfuse3.EntryAttributes:
        """fstat(2) of a file whose process has died: its handles still read the header."""
        core = inode.core
        if core is None or core.size is None:
            raise FUSEError(errno.ESRCH)
        return entries.core(inode, 0, 0, core.size, core.began)


def _reply(token: Any, name: bytes, entry: pyfuse3.EntryAttributes, identifier: int) -> bool:
    return pyfuse3.readdir_reply(token, FileNameT(name), entry, identifier)


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.pid, ctx.uid, ctx.gid)

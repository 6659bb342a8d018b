"""The protocol adapter.

Rules of this file:
- It translates and decides nothing: who may is access's affair, when it stops and when it is
  let go is a stop's.
- Only FUSEError leaves a handler: any other exception would end the whole mount.  _answered
  is the one place where errors become errnos.
- Nothing in a handler blocks the event loop.  Whatever may wait, every file of /proc among
  it, is asked in a thread and under a bound (listing.py says why).
"""

import errno
import functools
import os
import stat as modes
import time
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FileNameT, FlagT, FUSEError, InodeT, ModeT

from gcorefs.mount.buffers import LARGEST_REQUEST
from gcorefs.mount.door import first_door, joiners_door
from gcorefs.mount.inodes import Inode, Inodes
from gcorefs.mount.listing import Look, look
from gcorefs.mount.log import logger
from gcorefs.mount.options import Options
from gcorefs.mount.stops import Handle, Stop, Workers
from gcorefs.process import procfs
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason

_SIZE_TIMEOUT = 5.0
_SETTLE_TIMEOUT = 10.0
_MOST_TRIES = 100

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
        except ProcessError as error:
            logger.warning("%s", error)
            raise FUSEError(error.errno or errno.EIO) from None
        except BlockingIOError:
            raise FUSEError(errno.EAGAIN) from None
        except Exception:
            logger.exception("%s failed", method.__name__)
            raise FUSEError(errno.EIO) from None

    return cast(_Method[_P, _T], handler)


class GcoreFS(pyfuse3.Operations):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self._nursery: trio.Nursery | None = None
        self._workers = Workers()
        self._questions = self._workers.questions
        self._inodes = Inodes()
        self._files: dict[int, tuple[Inode, Handle]] = {}
        self._stops: dict[Stop, Inode] = {}  # those whose end is still to come
        self._next_handle = 1
        self._listings: dict[int, list[int]] = {}
        self._is_closing = False

    def start(self, nursery: trio.Nursery) -> None:
        """Stops run in `nursery`."""
        self._nursery = nursery

    async def let_all_go(self) -> None:
        """No further stops, and an end to those that are."""
        self._is_closing = True
        stops = tuple(self._stops)
        for stop in stops:
            stop.let_go()
        for stop in stops:
            await stop.finished()

    # Names.

    @_answered
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name in (b".", b".."):
            return self._root()
        pid = int(name) if name.isdigit() and name[:1] != b"0" and len(name) < 10 else 0
        if not pid:
            raise FUSEError(errno.ENOENT)
        try:
            found = await self._questions.ask(pid, functools.partial(look, pid))
        except ProcessLookupError:
            raise FUSEError(errno.ENOENT) from None
        with self._inodes.held(found.process) as reference:
            entry = self._entry(reference.inode, found)
            reference.keep()
        return entry

    @_answered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, lookups in inode_list:
            if number != pyfuse3.ROOT_INODE:
                self._inodes.forget(number, lookups)

    @_answered
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if inode == pyfuse3.ROOT_INODE:
            return self._root()
        wanted = self._inodes[inode]
        pid = wanted.process.pid
        try:
            found = await self._questions.ask(pid, functools.partial(look, pid))
        except ProcessLookupError:
            found = None
        if found is None or found.process != wanted.process:
            return self._entry_of_the_gone(wanted)
        if wanted.stop is not None:  # cp and cat look at st_size once, right after open(2)
            await wanted.stop.wait_until_ready(_SIZE_TIMEOUT)
        return self._entry(wanted, found)

    @_answered
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        number = self._new_handle()
        self._listings[number] = sorted(await self._questions.ask(0, procfs.pids))
        return FileHandleT(number)

    @_answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        # Identifiers: 1 and 2 for the dots, then pid + 2, so that a process that comes or
        # goes between two calls moves nobody else.
        for identifier, name in ((1, b"."), (2, b"..")):
            if start_id < identifier and not _reply(token, name, self._root(), identifier):
                return
        pids = self._listings[fh]
        rest = pids[bisect_right(pids, start_id - 2) :]
        while rest:
            listed, count = await self._questions.list(rest)
            rest = rest[count:]
            for each in listed:
                with self._inodes.held(each.process) as reference:
                    entry = self._entry(reference.inode, each)
                    pid = each.process.pid
                    if not _reply(token, b"%d" % pid, entry, pid + 2):
                        return
                    reference.keep()

    @_answered
    async def releasedir(self, fh: FileHandleT) -> None:
        del self._listings[fh]

    @_answered
    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        return True  # default_permissions: the kernel has already judged the mode

    # Files.

    @_answered
    async def open(
        self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        found = self._inodes[inode]
        for _ in range(_MOST_TRIES):  # once more where a stop ended while the door was asked
            handle = await self._open(found, flags, ctx)
            if handle is not None:
                break
        else:
            raise FUSEError(errno.ESTALE)
        number = self._new_handle()
        self._files[number] = found, handle
        return pyfuse3.FileInfo(fh=FileHandleT(number), direct_io=True, keep_cache=False)

    @_answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        _, handle = self._files[fh]
        # pyfuse3 takes any buffer and says bytes.
        return cast(bytes, await handle.stop.read(handle, off, size))

    @_answered
    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: pyfuse3.PollHandle | None,
        ctx: pyfuse3.RequestContext,
    ) -> int:
        _, handle = self._files[fh]
        return handle.stop.poll(handle, poll_handle)

    @_answered
    async def flush(self, fh: FileHandleT) -> None:
        """Nothing: a file may be closed many times (dup, fork) before it is released."""

    @_answered
    async def release(self, fh: FileHandleT) -> None:
        inode, handle = self._files.pop(fh)
        handle.stop.leave(handle)
        self._drop(inode)

    @_answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = procfs.PAGE_SIZE
        data.f_namemax = 10
        return data

    # What they lean on.

    def _new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    async def _open(self, inode: Inode, flags: FlagT, ctx: pyfuse3.RequestContext) -> Handle | None:
        await self._settle(inode)
        process, stop = inode.process, inode.stop
        was_ready = stop is not None and stop.is_ready
        door = first_door if stop is None else joiners_door
        question = functools.partial(door, process, ctx.pid, ctx.uid, ctx.gid)
        opener = await self._questions.ask(process.pid, question)
        # No await from here to the join: a stop that is alive now is joined alive.
        if self._is_closing:
            raise FUSEError(errno.ENODEV)
        if inode.stop is not stop and inode.stop is not None:
            return None  # somebody else's, begun meanwhile: ask again, as one who joins
        if stop is None or inode.stop is None:
            stop = self._begin(inode, opener)
        if stop.is_over:
            return None
        return stop.join(opener, bool(flags & os.O_NONBLOCK), was_ready)

    async def _settle(self, inode: Inode) -> None:
        """Wait out a stop that is being let go, so that a new one does not meet its tracer."""
        process = inode.process
        for stop in [each for each in self._stops if each.process == process and each.is_over]:
            with trio.move_on_after(_SETTLE_TIMEOUT):
                await stop.finished()
            if not stop.is_finished:
                raise ProcessError(Reason.TRACED, process.pid, "it is still being let go")
        if inode.is_retired:
            raise FUSEError(errno.ESTALE)  # the kernel looks the name up again
        if inode.stop is not None and inode.stop.is_over:
            inode.stop = None

    def _begin(self, inode: Inode, opener: Opener) -> Stop:
        assert self._nursery is not None
        stop = Stop(inode.process, opener, self._options, self._workers, self._nursery)
        inode.stop = stop
        self._stops[stop] = inode
        self._nursery.start_soon(self._run, stop)
        return stop

    async def _run(self, stop: Stop) -> None:
        try:
            await stop.run()
        except Exception:  # one stop's surprise is not the end of the mount
            logger.exception("process %d: the stop ended", stop.process.pid)
        finally:
            self._drop(self._stops.pop(stop))

    def _drop(self, inode: Inode) -> None:
        """Forget the header and registers of a stop that is over once nobody can read them.

        The kernel may remember an inode for as long as it has memory to spare.
        """
        stop = inode.stop
        if stop is not None and stop.is_finished and not stop.is_open:
            inode.stop = None

    def _entry(self, inode: Inode, found: Look) -> pyfuse3.EntryAttributes:
        stop = inode.stop
        if stop is None or stop.size is None:
            return _file(inode, found.uid, found.gid, found.estimate, found.started)
        return _file(inode, found.uid, found.gid, stop.size, stop.began)

    def _entry_of_the_gone(self, inode: Inode) -> pyfuse3.EntryAttributes:
        """fstat(2) of a file whose process has died: its handles still read the header."""
        stop = inode.stop
        if stop is None or stop.size is None:
            raise FUSEError(errno.ESRCH)
        return _file(inode, 0, 0, stop.size, stop.began)

    def _root(self) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.ROOT_INODE
        entry.st_mode = ModeT(modes.S_IFDIR | 0o555)
        entry.st_nlink = 2
        entry.st_uid, entry.st_gid = os.geteuid(), os.getegid()
        entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = time.time_ns()
        entry.attr_timeout = entry.entry_timeout = 0
        return entry


def _file(inode: Inode, uid: int, gid: int, size: int, nanoseconds: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = InodeT(inode.number)
    entry.generation = inode.process.start_time
    entry.st_mode = ModeT(modes.S_IFREG | 0o400)
    entry.st_nlink = 1
    entry.st_uid, entry.st_gid = uid, gid
    entry.st_size = size
    entry.st_blksize = LARGEST_REQUEST  # so that cp and cat read so much at a time
    entry.st_blocks = -(-size // 512)
    entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = nanoseconds
    # Nothing is remembered: the size changes when a process is opened, the process may go.
    entry.attr_timeout = entry.entry_timeout = 0
    return entry


def _reply(token: Any, name: bytes, entry: pyfuse3.EntryAttributes, identifier: int) -> bool:
    return pyfuse3.readdir_reply(token, FileNameT(name), entry, identifier)

"""The protocol adapter.

Rules of this file:
- It translates and decides nothing.  A node decides what a file is and who may use it (nodes.py).
  A stop decides when its process is let go (stops.py).
- Only FUSEError leaves a handler, because any other exception would end the whole mount.
  _answered is the one place where errors become errnos.
- No handler blocks the event loop.  Threads with a time limit make all calls that may block, which
  includes every read of a file of /proc (questions.py says why).
"""

import errno
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    RequestContext,
    XAttrNameT,
)

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.errors import Refusal
from gcorefs.mount.crew import Crew
from gcorefs.mount.held import Held
from gcorefs.mount.limits import Limits
from gcorefs.mount.log import logger
from gcorefs.mount.looks import Looks
from gcorefs.mount.nodes import OpenDirectory, OpenFile
from gcorefs.mount.options import Options
from gcorefs.mount.policy_names import LONGEST
from gcorefs.mount.pools import Pools
from gcorefs.mount.readonly import ReadOnly
from gcorefs.mount.refusals import Refusals
from gcorefs.mount.sight import Sight
from gcorefs.mount.tree import Tree
from gcorefs.process.errors import ProcessError, Reason, is_no_memory
from gcorefs.profiles import Profiles

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Method = Callable[Concatenate["GcoreFS", _P], Coroutine[Any, Any, _T]]


def _answered(method: _Method[_P, _T]) -> _Method[_P, _T]:
    """The error boundary: every exception becomes an errno.  An exception that gcorefs does not
    raise on purpose becomes EIO, and a traceback in the log."""

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


class GcoreFS(ReadOnly):
    def __init__(self, options: Options, limits: Limits, profiles: Profiles, crew: Crew) -> None:
        super().__init__()
        pools = Pools(limits, crew)
        self.windows = pools.windows
        self.held = Held(options, limits, pools)
        self._sight = Sight()
        looks = Looks(self._sight, pools.questions, limits.requests)
        self._tree = Tree(options, profiles, looks, self.held, limits)
        self.replace_profiles = self._tree.replace_profiles
        self._refusals = Refusals()
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}
        self._last_handle = 0

    def mounted_as(self, device: int) -> None:
        """`device`: st_dev of the files here."""
        self._sight.mounted_as(device)

    def _new_handle(self) -> FileHandleT:
        self._last_handle += 1
        return FileHandleT(self._last_handle)

    # Names.

    @_answered
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        # The kernel looks these names up for file handles (fs/fuse/inode.c, fuse_get_dentry and
        # fuse_get_parent), even in an inode that it has forgotten.
        if name in (b".", b".."):
            return self._tree.root.entry()
        return await self._tree[parent_inode].lookup(name, ctx)

    @_answered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, lookups in inode_list:
            self._tree.forget(number, lookups)

    @_answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return await self._tree[inode].attributes(ctx)

    @_answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [XAttrNameT(name) for name in self._tree[inode].xattr_names(ctx)]

    @_answered
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        value = await self._tree[inode].xattr(name, ctx)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    @_answered
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True  # default_permissions: the kernel has already judged the mode

    @_answered
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = PAGE_SIZE
        data.f_namemax = LONGEST
        return data

    # Directories.

    @_answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        directory = await self._tree[inode].open_directory(ctx)
        number = self._new_handle()
        self._directories[number] = directory
        return number

    @_answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        def reply(name: bytes, entry: EntryAttributes, identifier: int) -> bool:
            return pyfuse3.readdir_reply(token, FileNameT(name), entry, identifier)

        await self._directories[fh].read(start_id, reply)

    @_answered
    async def releasedir(self, fh: FileHandleT) -> None:
        self._directories.pop(fh).release()

    # Files.

    @_answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        file = await self._tree[inode].open(flags, ctx)
        number = self._new_handle()
        self._files[number] = file
        return pyfuse3.FileInfo(fh=number, direct_io=True, keep_cache=False)

    @_answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        data = await self._files[fh].read(off, size)
        return cast(bytes, data)  # pyfuse3 takes any buffer and says bytes

    @_answered
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self._files[fh].write(buf)

    @_answered
    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: pyfuse3.PollHandle | None,
        ctx: RequestContext,
    ) -> int:
        return self._files[fh].poll(poll_handle)

    @_answered
    async def flush(self, fh: FileHandleT) -> None:
        """Nothing: a file may be closed many times (dup, fork) before it is released."""

    @_answered
    async def release(self, fh: FileHandleT) -> None:
        self._files.pop(fh).release()

"""What every mount does alike: it is ready once, and nothing in it can be created or changed."""

import errno
from typing import Any, NoReturn

import pyfuse3
import trio


async def _refuse(*_: object) -> NoReturn:
    raise pyfuse3.FUSEError(errno.EROFS)


class ReadOnly(pyfuse3.Operations):
    """EROFS for every such request; pyfuse3 itself would answer ENOSYS."""

    def __init__(self) -> None:
        super().__init__()
        self.serving = trio.Event()
        """The kernel has made its first request, FUSE_INIT.  Until it is answered, all others
        wait (fs/fuse/dev.c, fuse_get_req); pyfuse3 answers it right after `init`."""

    def init(self) -> None:
        self.serving.set()

    _never: Any = _refuse
    create = mknod = mkdir = symlink = link = _never
    unlink = rmdir = rename = setattr = setxattr = removexattr = _never

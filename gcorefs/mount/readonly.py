"""Requests that every file refuses: to create, move or change anything."""

import errno
from typing import Any, NoReturn

import pyfuse3


async def _refuse(*_: object) -> NoReturn:
    raise pyfuse3.FUSEError(errno.EROFS)


class ReadOnly(pyfuse3.Operations):
    """EROFS for every such request; pyfuse3 itself would answer ENOSYS."""

    _never: Any = _refuse
    create = mknod = mkdir = symlink = link = _never
    unlink = rmdir = rename = setattr = setxattr = removexattr = _never

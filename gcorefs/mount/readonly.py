"""What no file of ours takes: to be made, moved, or changed in anything."""

import errno
from typing import Any, NoReturn

import pyfuse3


async def _refuse(*_: object) -> NoReturn:
    raise pyfuse3.FUSEError(errno.EROFS)


class ReadOnly(pyfuse3.Operations):
    """EROFS for every request of that kind; pyfuse3 itself would say ENOSYS."""

    _never: Any = _refuse
    create = mknod = mkdir = symlink = link = _never
    unlink = rmdir = rename = setattr = setxattr = removexattr = _never

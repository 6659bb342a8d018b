"""What helps if the output of a command cannot be written."""

import errno
import os

from gcorefs.export.sink import SinkError

_ROOM = "free some room, or name another place; --policy @stacks needs about a megabyte"
_ELSEWHERE = "name another place"
_STEPS = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.EIO: _ELSEWHERE,
    errno.ENAMETOOLONG: _ELSEWHERE,
    errno.ENOENT: "make the directory, or name another place",
    errno.ENOTDIR: _ELSEWHERE,
    errno.EISDIR: "name a file in it",
    errno.EPIPE: "look why whoever reads it has ended",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}
_OF_STORES = {
    "s3://": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL",
    "gs://": "GOOGLE_APPLICATION_CREDENTIALS",
    "az://": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
"""What says who asks for it, and where it is (docs/commands.md, --to)."""


def with_step(error: SinkError) -> str:
    """The line about an error, and the next step, if it does not say that itself."""
    step = _step(error)
    return f"{error}; {step}" if step else str(error)


def _step(error: SinkError) -> str:
    name = str(error.filename)
    if names := _OF_STORES.get(name[:5]):
        return f"look at {names} in the environment"
    number = error.errno or 0
    # Words that are not the kernel's are ours, and say more.
    return _STEPS.get(number, "") if error.strerror == os.strerror(number) else ""

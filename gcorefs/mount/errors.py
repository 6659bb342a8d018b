"""Why a mount refuses a request: the limits of its users, and .gcorefs/release.

docs/errors.md has the same table (tests/pure/test_errors.py compares the two), together with the
reasons of a process (process/errors.py).
"""

import errno

from gcorefs.errors import Refusal, Why


class RequestReason(Why):
    """Why the request is refused."""

    USER_FILES = (
        errno.EMFILE,
        "its opener has too many open files (user_files=)",
        "close some, or mount with a larger user_files=",
    )
    USER_STOPS = (
        errno.EMFILE,
        "its opener holds too many processes (user_stops=)",
        "gcorefs status shows them, gcorefs release lets one go",
    )
    USER_MEMORY = (
        errno.EMFILE,
        "the headers of its opener need too much memory (user_memory=)",
        "close some, or mount with a larger user_memory=",
    )
    USER_REQUESTS = (
        errno.EAGAIN,
        "too many requests of its opener are waiting",
        "wait, and open it again",
    )
    ALL_FILES = (
        errno.EAGAIN,
        "too many files are open (max_files=)",
        "gcorefs status shows who has them; or mount with a larger max_files=",
    )
    ALL_STOPS = (
        errno.EAGAIN,
        "too many processes are held (max_stops=)",
        "gcorefs release lets one go; or mount with a larger max_stops=",
    )
    ALL_MEMORY = (
        errno.EAGAIN,
        "the headers of all open files need too much memory (max_memory=)",
        "gcorefs release lets one go; or mount with a larger max_memory=",
    )
    ALL_REQUESTS = (errno.EAGAIN, "too many requests are waiting", "wait, and open it again")
    NO_PID = (
        errno.EINVAL,
        "the text written to .gcorefs/release is not a pid",
        "write the digits of one pid",
    )
    NOT_HELD = (errno.ESRCH, "it is not held", "gcorefs status shows what is held")
    NOT_YOURS = (
        errno.EPERM,
        "another user holds it, and only root may release it",
        "ask that user, or root",
    )
    NO_VALUE = (
        errno.EINVAL,
        "a path gives an option a value that it cannot have",
        "gcorefs(8) has the values of each option",
    )
    WHOLE_MOUNT = (
        errno.EINVAL,
        "a path names an option that holds for the whole mount",
        "give it to gcorefs mount -o",
    )
    CORES = (
        errno.EAGAIN,
        "its stop has too many cores with different policies",
        "close one of them, or ask for the same policy",
    )
    TOO_LONG = (
        errno.EPERM,
        "only root may ask in a path for longer than the mount's options",
        "ask for less, or mount with more",
    )


class RequestError(Refusal):
    """A request that the mount refuses, whatever process it is about."""


class PolicyRefused(RequestError):
    """The name of a directory asks for a policy that cannot be had."""

    def __init__(self, reason: RequestReason, pid: int, option: str, line: str) -> None:
        super().__init__(reason, pid, line)
        # The log counts refusals by this, and a user can make up any number of values.
        self.detail = option

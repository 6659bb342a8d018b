"""Every way in which a mount refuses a request: what its users may have, and .gcorefs/release.

docs/errors.md has the same table for people (tests/pure/test_errors.py compares the two), with
those of a process (process/errors.py).
"""

import errno

from gcorefs.errors import Refusal, Why


class RequestReason(Why):
    """Why not."""

    USER_FILES = (errno.EMFILE, "its opener has as many files open as a user may (user_files=)")
    USER_STOPS = (errno.EMFILE, "its opener holds as many processes as a user may (user_stops=)")
    USER_MEMORY = (errno.EMFILE, "the headers of its opener take all their memory (user_memory=)")
    USER_REQUESTS = (errno.EAGAIN, "too many requests of its opener wait already")
    ALL_FILES = (errno.EAGAIN, "as many files are open as may be in all (max_files=)")
    ALL_STOPS = (errno.EAGAIN, "as many processes are held as may be in all (max_stops=)")
    ALL_MEMORY = (errno.EAGAIN, "the headers of all open files take all memory (max_memory=)")
    ALL_REQUESTS = (errno.EAGAIN, "too many requests wait already")
    NO_PID = (errno.EINVAL, "what was written to .gcorefs/release is no pid")
    NOT_HELD = (errno.ESRCH, "it is not held")
    NOT_YOURS = (errno.EPERM, "somebody else holds it, and only root lets go for others")


class RequestError(Refusal):
    """A request that the mount refuses, whatever process it is about."""

"""Reads one file of /proc to its end, and says what an error means (proc(5)).

A file can be missing for three reasons.  Only the first one is the end of a process:

- The process or thread is gone: ProcessLookupError (ESRCH).  This error has no other meaning.
- The process lives, but /proc does not show it to us, or refuses the file: PermissionError.
  The cause is hidepid=, an access check of ptrace(2), or a security module.
- The process lives, but the kernel is built without this file: FileNotFoundError.  Or another,
  empty file is mounted over it: OSError, ENODATA.

Every error names the file.  A file that belongs to no process (read_system) says nothing about any
process: with subset=pid, /proc has no such files.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from gcorefs.errors import GcorefsError


class FormatError(GcorefsError, ValueError):
    """The kernel does not write such text.  It is refused, never guessed at."""


_CHUNK = 1 << 16

LONGEST = 32 << 20
"""Bytes that are read of one file.  A process chooses how long some of them are: by PR_SET_MM_MAP
(prctl(2)) cmdline and environ are as long as its largest mapping."""

_HIDDEN = "/proc does not show this process, see hidepid= in proc(5)"


def open_file(path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of /proc/`path`, a file of a process.  Errors: see the module."""
    try:
        return os.open(f"/proc/{path}", flags | os.O_CLOEXEC)
    except OSError as error:
        raise explained(error, path) from error


def read(path: str, is_record: bool = False) -> bytes:
    """All of /proc/`path`, a file of a process, with as few calls as possible.  Errors: see the
    module.

    `is_record`: the file has one record, as stat has, and not a list, as maps has.  Then one read
    gives all that there is (fs/seq_file.c, single_open), and a short read is the end.  Between two
    calls another thread may take the interpreter lock.
    """
    try:
        return _slurp(path, is_record)
    except OSError as error:
        raise explained(error, path) from error


def has_text(path: str) -> bool:
    """True if /proc/`path`, a file of a process, is not empty.  Errors: see the module."""
    return bool(read_beginning(path))


def read_beginning(path: str) -> bytes:
    """The first 64 KiB of /proc/`path`, a file of a process.  Errors: see the module."""
    fd = open_file(path)
    try:
        return os.read(fd, _CHUNK)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        os.close(fd)


def pieces(path: str) -> Iterator[bytes]:
    """All of /proc/`path`, a list of lines of a process, in pieces of whole lines.  Errors: see the
    module; EFBIG: there is more than LONGEST."""
    try:
        rest = b""
        for text in _chunks(path):
            whole, newline, rest = (rest + text).rpartition(b"\n")
            yield whole + newline
        if rest:
            yield rest
    except OSError as error:
        raise explained(error, path) from error


@contextlib.contextmanager
def unless_too_long() -> Iterator[None]:
    """Go on behind it if there is more than LONGEST."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise


def read_system(path: str, most: int = LONGEST) -> bytes:
    """All of /proc/`path`, a file that belongs to no process.  OSError, but never ESRCH; EFBIG:
    there are more than `most` bytes."""
    return b"".join(_chunks(path, most=most))


def _slurp(path: str, is_record: bool) -> bytes:
    return b"".join(_chunks(path, is_record))


def _chunks(path: str, is_record: bool = False, most: int = LONGEST) -> Iterator[bytes]:
    fd = os.open(f"/proc/{path}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        left = most
        while text := os.read(fd, _CHUNK):
            yield text
            left -= len(text)
            if is_record and len(text) < _CHUNK:
                break
            if left < 0:
                raise OSError(errno.EFBIG, f"it has more than {most >> 20} MiB")
    finally:
        os.close(fd)


def is_kernels_own(path: str) -> bool:
    """True if /proc/`path` is a file of the proc file system, and nothing is mounted over it."""
    return os.stat(f"/proc/{path}").st_dev == os.stat("/proc").st_dev


def gone(what: object) -> ProcessLookupError:
    """The error for a process or thread that is gone."""
    return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(what))


def empty(path: str) -> OSError:
    """The error for an empty /proc/`path` of a living process."""
    return OSError(errno.ENODATA, "it is empty", f"/proc/{path}")


def explained(error: OSError, path: str) -> OSError:
    """The error to raise for a failed call on /proc/`path`, a file of a process."""
    if error.errno == errno.ENOENT:
        return _missing(path)
    # read(2) and others do not name the file.
    return OSError(error.errno, error.strerror, f"/proc/{path}")


def _missing(path: str) -> OSError:
    """Which of the three reasons holds if there was no /proc/`path`."""
    process, *words = path.split("/")
    folder = f"/proc/{process}"
    is_threads = words[:1] == ["task"] and len(words) > 1
    if os.path.isdir(f"{folder}/task/{words[1]}" if is_threads else folder):
        if words[-1] == "stat":  # every task has it: the number is another task's by now
            return gone(path)
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"/proc/{path}")
    if (is_threads and os.path.isdir(folder)) or not _exists(int(process)):
        return gone(path)
    return PermissionError(errno.EACCES, _HIDDEN, folder)


def _exists(tid: int) -> bool:
    """True if there is such a process or thread, even if /proc does not show it.

    getpgid(2) needs no permission; only a security module may refuse it.  To getpgid(2), 0 means
    the caller; here it is no process.
    """
    try:
        return tid != 0 and os.getpgid(tid) >= 0
    except (ProcessLookupError, OverflowError):  # the latter: the number is not a pid_t
        return False
    except PermissionError:
        return True


def read_of(pid: int, tid: int | None, name: str) -> bytes:
    """The file `name` of a process, or of one of its threads."""
    path = f"{pid}/{name}" if tid is None else f"{pid}/task/{tid}/{name}"
    text = read(path, is_record=True)
    if not text:  # if it were gone, the read would have failed
        raise empty(path)
    return text

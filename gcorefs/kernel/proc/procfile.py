"""One file of /proc, read to its end, and what it means when it cannot be read (proc(5)).

A file that is missing looks the same in three cases, and only the first is the end of a process:

- The process or thread is gone: ProcessLookupError (ESRCH).  Nothing else is told by it.
- The process lives and /proc does not show it to us, or refuses the file: PermissionError.
  hidepid=, an access check of ptrace(2), or a security module does so.
- The process lives and has no such file, as the kernel is built without it: FileNotFoundError.
  Or another file, with nothing in it, is mounted over it: OSError, ENODATA.

Every error names the file.  A file that belongs to no process (read_system) says nothing of any
process: with subset=pid /proc has none of those.
"""

import errno
import os

from gcorefs.errors import GcorefsError


class FormatError(GcorefsError, ValueError):
    """The text is not one that the kernel writes: refused, never guessed at."""


_CHUNK = 1 << 16
_HIDDEN = "/proc does not show this process, see hidepid= in proc(5)"


def open_file(path: str) -> int:
    """A descriptor of /proc/`path`, a file of a process.  Errors: see above."""
    try:
        return os.open(f"/proc/{path}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise explained(error, path) from error


def read(path: str, is_record: bool = False) -> bytes:
    """All of /proc/`path`, a file of a process, in as few reads as it takes.  Errors: see above.

    `is_record`: it tells of one thing, as stat does, and not of one after the other, as maps
    does; then a read gives as much as there is (fs/seq_file.c, single_open), and what is short
    is the end.  Between two calls another thread may hold the interpreter lock.
    """
    try:
        return _slurp(path, is_record)
    except OSError as error:
        raise explained(error, path) from error


def has_text(path: str) -> bool:
    """True where /proc/`path`, a file of a process, has anything in it.  Errors: see above."""
    fd = open_file(path)
    try:
        return bool(os.read(fd, _CHUNK))
    except OSError as error:
        raise explained(error, path) from error
    finally:
        os.close(fd)


def read_system(path: str) -> bytes:
    """All of /proc/`path`, a file that belongs to no process.  OSError, and never ESRCH."""
    return _slurp(path, is_record=False)


def _slurp(path: str, is_record: bool) -> bytes:
    fd = os.open(f"/proc/{path}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = [os.read(fd, _CHUNK)]
        while chunks[-1] and not (is_record and len(chunks[-1]) < _CHUNK):
            chunks.append(os.read(fd, _CHUNK))
        return b"".join(chunks)
    finally:
        os.close(fd)


def is_kernels_own(path: str) -> bool:
    """True where /proc/`path` is a file of the proc file system, and nothing is mounted over it."""
    return os.stat(f"/proc/{path}").st_dev == os.stat("/proc").st_dev


def gone(what: object) -> ProcessLookupError:
    """A process or thread is no more, or what /proc told of it."""
    return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(what))


def empty(path: str) -> OSError:
    """/proc/`path` has no text, of a process that lives."""
    return OSError(errno.ENODATA, "it is empty", f"/proc/{path}")


def explained(error: OSError, path: str) -> OSError:
    """The error of a call on /proc/`path`, a file of a process, as it is to be told."""
    if error.errno == errno.ENOENT:
        return _missing(path)
    # read(2) and others do not name the file.
    return OSError(error.errno, error.strerror, f"/proc/{path}")


def _missing(path: str) -> OSError:
    """Why there is no /proc/`path`: of the three cases, the one that it is."""
    process, *words = path.split("/")
    folder = f"/proc/{process}"
    is_threads = words[:1] == ["task"] and len(words) > 1
    if os.path.isdir(f"{folder}/task/{words[1]}" if is_threads else folder):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"/proc/{path}")
    if (is_threads and os.path.isdir(folder)) or not _exists(int(process)):
        return gone(path)
    return PermissionError(errno.EACCES, _HIDDEN, folder)


def _exists(tid: int) -> bool:
    """True where there is such a process or thread, also one that /proc does not show.

    getpgid(2) asks for no permission; only a security module may refuse it.  0 is nobody here,
    and the caller there.
    """
    try:
        return tid != 0 and os.getpgid(tid) >= 0
    except (ProcessLookupError, OverflowError):  # the latter: it is no pid_t
        return False
    except PermissionError:
        return True


def read_of(pid: int, tid: int | None, name: str) -> bytes:
    """What /proc has of a process, or of one of its threads."""
    path = f"{pid}/{name}" if tid is None else f"{pid}/task/{tid}/{name}"
    text = read(path, is_record=True)
    if not text:  # of one that is gone, a read would have failed
        raise empty(path)
    return text

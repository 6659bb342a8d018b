"""The sinks of a core: a stream, and a file that gets its name when it is complete.

A half-written core must never look like a complete core, and an error of the output must never
look like an error of the process.  So a sink raises SinkError and nothing else, and it checks for
late errors (fsync(2), close(2)) before it gives the file its name.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from typing import Protocol

from gcorefs.errors import GcorefsError
from gcorefs.export.lookup import Entry, look_up
from gcorefs.kernel.patient import write_all

STANDARD_OUTPUT = "standard output"

# The file system of the directory does not support O_TMPFILE (open(2)): NFS, most FUSE servers,
# overlayfs before Linux 6.3.  A kernel that does not know O_TMPFILE gives EISDIR.
_HAS_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR)


# Another file system, or one that does not support it; Linux before 5.19 says EXDEV or EINVAL.
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


class SinkError(GcorefsError, OSError):
    """The output cannot be written.  `filename` names it; `errno` and `strerror` say why."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error), name)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class Sink(Protocol):
    """Where a core is written, from its first byte to its last.

    The caller must abort a sink that is not committed.  An abort after a commit does nothing.
    """

    def write(self, data: memoryview) -> None:
        """Append all of `data`.  SinkError."""

    def commit(self) -> None:
        """Finish the output.  On return no error can follow.  SinkError."""

    def abort(self) -> None:
        """Close the sink and leave nothing behind.  Raises nothing."""


def open_sink(output: str, is_chosen: bool, mode: int = 0o600) -> Sink:
    """The sink that is called `output`; '-' is standard output.  SinkError.

    `mode`: that of a new regular file, as open(2) takes it.  0600 is that of the kernel's cores.

    With `is_chosen` the user chose the name, and it may lead to anything: a device, a FIFO, one of
    our own file descriptors, the target of a symbolic link.  Otherwise it must be a regular file.
    """
    name = STANDARD_OUTPUT if output == "-" else output
    with _told_of(name):
        if output == "-":
            return StreamSink(duplicate(1), name)
        with look_up(output, is_followed=is_chosen) as entry:
            if entry.descriptor is not None and is_chosen:
                return StreamSink(duplicate(entry.descriptor), name)
            if not entry.exists or (entry.is_regular and entry.has_name):
                return FileSink(os.dup(entry.directory), entry.name, name, mode)
            if not is_chosen:
                raise OSError(errno.EEXIST, "it is no regular file")
            return StreamSink(_open_stream(entry), name)


@contextlib.contextmanager
def _told_of(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SinkError(name, error) from error


def duplicate(number: int) -> int:
    """A duplicate of the file descriptor `number`.  EBADF: it is not open for writing."""
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    if flags & os.O_PATH or flags & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 0)


def _open_stream(entry: Entry) -> int:
    if entry.is_foreign:
        raise OSError(errno.EACCES, "it is another user's, in a directory that all may write to")
    return entry.open(os.O_WRONLY | os.O_TRUNC | os.O_NOCTTY)


class StreamSink:
    """An open file: a pipe, a socket, a device.  An abort does not undo a write."""

    def __init__(self, fd: int, name: str) -> None:
        """Takes over `fd`.  `name` is for people."""
        self._fd = fd
        self._name = name

    def write(self, data: memoryview) -> None:
        with _told_of(self._name):
            write_all(self._fd, data)

    def commit(self) -> None:
        with _told_of(self._name):
            _flush(self._fd)
        self._end()

    def abort(self) -> None:
        self._end()

    def _end(self) -> None:
        fd, self._fd = self._fd, -1
        _close(fd)


class FileSink:
    """A new regular file.  When it is complete, it replaces the file that has its name.

    The mode of a core is 0600, as of the kernel's: it holds all secrets of the process.  Before
    the commit it has no name (O_TMPFILE), so that nothing remains of it even if we are killed.  If
    the file system does not support that, it has a temporary name (.gcorefs-*), and SIGKILL leaves
    that file behind.
    """

    def __init__(self, directory: int, entry: str, name: str, mode: int = 0o600) -> None:
        """The file gets the name `entry` in `directory`.  Takes over `directory`, a file
        descriptor.  `name` is for people.  `mode`: as open(2) takes it.  SinkError."""
        self._mode = mode
        self._directory = directory
        self._entry = entry
        self._name = name
        self._temporary: str | None = None
        self._fd = -1
        try:
            with _told_of(name):
                self._fd = self._create()
        except BaseException:
            self._end()
            raise

    def _create(self) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            return os.open(".", flags | os.O_TMPFILE, self._mode, dir_fd=self._directory)
        except OSError as error:
            if error.errno not in _HAS_NO_NAMELESS_FILES:
                raise
        self._temporary = _new_name()
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(self._temporary, flags, self._mode, dir_fd=self._directory)

    def write(self, data: memoryview) -> None:
        with _told_of(self._name):
            write_all(self._fd, data)

    def copy_from(self, file: int, offset: int, length: int) -> int:
        """Append bytes of an open file without reading them: a file system that can do it shares
        the blocks (copy_file_range(2)).  Returns how many; 0: `write` them.  SinkError."""
        with _told_of(self._name):
            try:
                return os.copy_file_range(file, self._fd, length, offset)
            except OSError as error:
                if error.errno in _CANNOT_COPY:
                    return 0
                raise

    def commit(self) -> None:
        with _told_of(self._name):
            _flush(self._fd)
            self._give_name()
        self._end()

    def _give_name(self) -> None:
        if self._temporary is None:
            try:
                self._link(self._entry)
            except FileExistsError:
                # linkat(2) cannot replace a file: a temporary name, then rename(2).
                self._temporary = _new_name()
                self._link(self._temporary)
            else:
                return
        here = self._directory
        os.rename(self._temporary, self._entry, src_dir_fd=here, dst_dir_fd=here)
        self._temporary = None

    def _link(self, entry: str) -> None:
        # Through /proc, because AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH (linkat(2)).
        path = f"/proc/self/fd/{self._fd}"
        os.link(path, entry, dst_dir_fd=self._directory, follow_symlinks=True)

    def abort(self) -> None:
        self._end()

    def _end(self) -> None:
        fd, self._fd = self._fd, -1
        _close(fd)
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._directory)
            self._temporary = None
        directory, self._directory = self._directory, -1
        _close(directory)


def _new_name() -> str:
    return f".gcorefs-{os.urandom(8).hex()}"


def _flush(fd: int) -> None:
    """Raise late errors: a full disk or quota of a file server or of a delayed write."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file does not support synchronization (fsync(2))
            raise
    # Every close(2) of a duplicate reports the errors of the file system (fs/open.c, filp_flush).
    # The file itself must stay open until it has its name.
    os.close(os.dup(fd))


def _close(fd: int) -> None:
    if fd >= 0:
        with contextlib.suppress(OSError):
            os.close(fd)

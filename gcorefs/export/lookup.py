"""The lookup of an output's name, safe in directories that other users can write to.

In a directory like /tmp, another user can make `core.1234` a symbolic link, so that root
overwrites one of root's own files.  With fs.protected_symlinks = 1 the kernel refuses to follow
that link (proc_sys_fs(5)).  But a program that resolves a name before it opens it gets past that
check, and containers often have 0.  So this module looks up the last part of a name itself, and
applies the rule of the kernel whatever the setting is.  All further steps use a file descriptor
of the directory: nobody can replace the directory between two steps.
"""

import contextlib
import errno
import os
import stat
from types import TracebackType

_MOST_LINKS = 40
"""The kernel's limit: MAXSYMLINKS (include/linux/namei.h)."""

_STICKY_FOR_ALL = stat.S_ISVTX | stat.S_IWOTH


class Entry:
    """A name in a directory, and the file that had the name when it was looked up.

    `descriptor` is one of our own file descriptors if the name stands for it, like /dev/stdout or
    /dev/fd/3.
    """

    def __init__(self, directory: int, name: str) -> None:
        """Takes over `directory`, a file descriptor.  OSError: the name cannot be looked up."""
        self.directory = directory
        self.name = name
        self._found: int | None = None
        self._stat: os.stat_result | None = None
        self.descriptor: int | None = None
        self.has_name = True
        """False if a link of /proc led to an open file: the name is not the name of that file."""
        try:
            self.descriptor = self._own_descriptor()
            if self.descriptor is None:
                self._find(os.O_NOFOLLOW)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Entry":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for number in (self.directory, self._found):
            if number is not None:
                os.close(number)
        self._found = None

    def _own_descriptor(self) -> int | None:
        is_ours = os.path.samestat(os.fstat(self.directory), os.stat("/proc/self/fd"))
        return int(self.name) if is_ours and self.name.isdecimal() else None

    def _find(self, flags: int) -> None:
        if self._found is not None:
            os.close(self._found)
            self._found = None
        try:
            flags |= os.O_PATH | os.O_CLOEXEC
            self._found = os.open(self.name, flags, dir_fd=self.directory)
        except FileNotFoundError:
            self._stat = None
        else:
            self._stat = os.fstat(self._found)

    @property
    def exists(self) -> bool:
        return self._found is not None

    @property
    def is_regular(self) -> bool:
        return self._stat is not None and stat.S_ISREG(self._stat.st_mode)

    @property
    def is_link(self) -> bool:
        """A symbolic link that has not been followed."""
        return self._stat is not None and stat.S_ISLNK(self._stat.st_mode)

    @property
    def is_foreign(self) -> bool:
        """True if another user may have put the file there as a trap.

        The directory is sticky and writable by everybody, and neither we nor the owner of the
        directory own the file: the rule of fs.protected_symlinks, protected_fifos and
        protected_regular (fs/namei.c, may_follow_link and may_create_in_sticky).  A file with
        several links counts too: any user may have made this link (protected_hardlinks).
        """
        found = self._stat
        if found is None:
            return False
        directory = os.fstat(self.directory)
        if directory.st_mode & _STICKY_FOR_ALL != _STICKY_FOR_ALL:
            return False
        is_shared = stat.S_ISREG(found.st_mode) and found.st_nlink > 1
        return is_shared or found.st_uid not in (os.geteuid(), directory.st_uid)

    def is_below_proc(self) -> bool:
        return self._stat is not None and self._stat.st_dev == os.stat("/proc").st_dev

    def follow(self) -> None:
        """Let the kernel follow the link.  OSError."""
        self._find(0)
        self.has_name = False

    def target(self) -> str:
        """The text of the link."""
        return os.readlink("", dir_fd=self._found)

    def open(self, flags: int) -> int:
        """Open the file that was found.  OSError; ENOENT: no file was found."""
        if self._found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.open(f"/proc/self/fd/{self._found}", flags | os.O_CLOEXEC)


def look_up(path: str, is_followed: bool = True) -> Entry:
    """The directory entry that `path` leads to, through symbolic links if `is_followed`.

    The kernel follows a link below /proc that stands for an open file, because its text is not a
    path.  ENOENT: there is no such directory, or it has been removed; EACCES: another user's link
    in a sticky directory; EISDIR: no last part; ELOOP.
    """
    return _look_up(path, is_followed, None, _MOST_LINKS)


def _look_up(path: str, is_followed: bool, start: int | None, links: int) -> Entry:
    head, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    directory = os.open(head or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=start)
    with contextlib.ExitStack() as stack:
        entry = stack.enter_context(Entry(directory, name))
        if not os.fstat(directory).st_nlink:  # to O_TMPFILE, file systems say different things then
            why = "the directory has been removed; name another place"
            raise FileNotFoundError(errno.ENOENT, why)
        if entry.is_link:
            if not is_followed:
                raise OSError(errno.ELOOP, "it is a symbolic link")
            if entry.is_foreign:
                raise OSError(errno.EACCES, "it is a symbolic link of another user's")
            if not links:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if not entry.is_below_proc():
                return _look_up(entry.target(), is_followed, directory, links - 1)
            entry.follow()
        stack.pop_all()
        return entry

"""stdio(3): reads a long file of /proc with few calls."""

import ctypes
import os

from gcorefs.kernel.libc import failure, quick, sleeping

# A FILE of stdio(3) is a pointer.
_fdopen = sleeping["fdopen"]
_fdopen.argtypes = (ctypes.c_int, ctypes.c_char_p)
_fdopen.restype = ctypes.c_void_p
_fread = sleeping["fread"]
_fread.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
_fread.restype = ctypes.c_size_t
_ferror = quick["ferror"]
_ferror.argtypes = (ctypes.c_void_p,)
_fclose = sleeping["fclose"]
_fclose.argtypes = (ctypes.c_void_p,)


_SHORT = 32 << 10
"""Bytes.  Most files of /proc have fewer, and are read in less time than a buffer for a long one is
cleared."""


class Stream:
    """A file that is read to its end, many bytes with one call.

    /proc returns its longer files one page for each read(2) (fs/seq_file.c, seq_read_iter).
    fread(3) reads until it has enough, without the interpreter lock.  A thread that had to get the
    lock back after each page would wait once for each page beside a busy thread.
    """

    def __init__(self, fd: int) -> None:
        """Owns the descriptor from now on.  ENOMEM."""
        self._file = _fdopen(fd, b"r")
        if not self._file:
            os.close(fd)
            raise failure()
        self._is_new = True

    def read(self, length: int) -> bytes:
        """`length` bytes, or fewer at the end."""
        if self._is_new and length > _SHORT:
            beginning = self._read(_SHORT)
            is_all = len(beginning) < _SHORT
            return beginning if is_all else beginning + self._read(length - _SHORT)
        return self._read(length)

    def _read(self, length: int) -> bytes:
        self._is_new = False
        buffer = ctypes.create_string_buffer(length)
        count = _fread(buffer, 1, length, self._file)
        if count < length and _ferror(self._file):
            raise failure()
        return ctypes.string_at(buffer, count)

    def close(self) -> None:
        _fclose(self._file)

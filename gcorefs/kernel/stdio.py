"""stdio(3): a long file of /proc, read with few calls."""

import ctypes
import os

from gcorefs.kernel.libc import failure, quick, sleeping

# A FILE of stdio(3), by its address.
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


class Stream:
    """A file that is read to its end, so many bytes with one call.

    /proc gives out its longer files a page at a time (fs/seq_file.c, seq_read_iter), whatever is
    asked for.  fread(3) asks until it has enough, and keeps the interpreter lock out of it: a
    thread that had to win it back for each page would wait beside a busy one as often.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._file = _fdopen(fd, b"r")
        if not self._file:
            os.close(fd)
            raise failure()

    def read(self, length: int) -> bytes:
        """Fewer bytes only at the end."""
        buffer = ctypes.create_string_buffer(length)
        count = _fread(buffer, 1, length, self._file)
        if count < length and _ferror(self._file):
            raise failure()
        return ctypes.string_at(buffer, count)

    def close(self) -> None:
        _fclose(self._file)

"""The bytes of a file, whose server may not answer.

A tar file tells the size of a file first.  So if a file is shorter by now, or cannot be read, zeros
take the place of what is missing, and the manifest says so.
"""

import concurrent.futures
import os

from gcorefs.bundle.mapped_files import Kept
from gcorefs.process.errors import named
from gcorefs.process.worker_threads import Worker

PATIENCE = 30.0
"""Seconds in which a read must be answered."""


class Content:
    """Files are read one after the other."""

    def __init__(self) -> None:
        self._worker = Worker("gcorefs-files")
        self.lost: dict[Kept, str] = {}
        """Why a part of a file is zeros."""

    def read(self, kept: Kept, offset: int, length: int) -> bytes:
        """`length` bytes, fewer only at the end of `kept.size`."""
        length = min(length, kept.size - offset)
        data = b"" if kept in self.lost else self._read(kept, offset, length)
        return data + bytes(length - len(data))

    def _read(self, kept: Kept, offset: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            reading = self._worker.submit(os.pread, kept.fd, length - len(data), offset + len(data))
            if not concurrent.futures.wait([reading], PATIENCE).done:
                self._worker.close()  # the thread ends with its read, and another one reads on
                self.lost[kept] = f"its file system has not answered for {PATIENCE:g} s"
                break
            try:
                piece = reading.result()
            except OSError as error:
                self.lost[kept] = named(error)
                break
            if not piece:
                self.lost[kept] = "it became shorter while it was read"
                break
            data += piece
        return data

    def close(self) -> None:
        self._worker.close()

"""The bytes of a file, whose server may not answer.

A tar file tells the size of a file first.  So if a file is shorter by now, or cannot be read, zeros
take the place of what is missing, and the manifest says so.
"""

import concurrent.futures
import os
import time
from collections import Counter
from collections.abc import Callable

from gcorefs.bundle.mapped_files import Kept
from gcorefs.process.errors import named
from gcorefs.process.worker_threads import Worker

PATIENCE = 30.0
"""Seconds in which a read must be answered."""

_SLOWEST = 64 << 10
"""Bytes in a second.  All files of a file system that has used up its time and gives less than this
are lost: a thousand of them must not take a thousand times as long."""


class Content:
    """Files are read one after the other."""

    def __init__(
        self,
        read: Callable[[int, int, int], bytes] = os.pread,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = Worker("gcorefs-files")
        self._read_at, self._patience, self._clock = read, patience, clock
        # By device.
        self._left: dict[int, float] = {}
        self._got = Counter[int]()
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
            patience = self._patience_with(kept)
            if patience <= 0:
                self.lost[kept] = "its file system has not answered in time before"
                break
            reading = self._worker.submit(
                self._read_at, kept.fd, length - len(data), offset + len(data)
            )
            if not self._is_answered(reading, kept, patience):
                self._worker.close()  # the thread ends with its read, and another one reads on
                self.lost[kept] = f"its file system has not answered for {patience:.0f} s"
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
            self._got[kept.identity[0]] += len(piece)
        return data

    def _patience_with(self, kept: Kept) -> float:
        """Seconds in which the next read of a file must be answered."""
        device = kept.identity[0]
        earned = self._got[device] / _SLOWEST
        return min(self._patience, self._left.get(device, self._patience) + earned)

    def _is_answered(
        self, reading: "concurrent.futures.Future[bytes]", kept: Kept, patience: float
    ) -> bool:
        device, began = kept.identity[0], self._clock()
        is_done = bool(concurrent.futures.wait([reading], patience).done)
        used = self._clock() - began if is_done else patience
        self._left[device] = self._left.get(device, self._patience) - used
        return is_done

    def close(self) -> None:
        self._worker.close()

"""A sink that is an object of an object store: s3://BUCKET/NAME, gs://BUCKET/NAME, az://CONTAINER/NAME.

The object is there when all of it is (a multipart upload), and an abort takes back the parts that
the store already has.  obstore knows where credentials are: AWS_*, GOOGLE_* and AZURE_* in the
environment, and the metadata service of the machine.
"""

import contextlib
import errno
import os
import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore, from_url

from gcorefs.export.sink import SinkError
from gcorefs.process.worker_threads import Worker

MOST_PARTS = 10_000
"""Of one object (S3; Azure has 50,000, GCS as many as S3)."""

LEAST_PART = 8 << 20
"""Bytes.  S3 wants 5 MiB."""

_MARGIN = 2
"""A core may be so much larger than it was expected to be: memory grows."""

_MOST_AT_ONCE = 4
"""Parts that are on their way.  Each takes its size of memory."""

_PIECE = 1 << 20
_MOST_PIECES = 8
"""Pieces that wait for the upload.  Then the writer waits."""

_SETTLING = 1.0
"""Seconds in which parts that are on their way can arrive before the store is told to take all
back.  It would keep a part that it stores after that (S3, AbortMultipartUpload)."""

_ABORT_TIMEOUT = 30.0
"""Seconds in which the store takes back what it has."""


class _Aborted(Exception):
    """Ends the upload: obstore takes back what it has sent."""


def part_size(expected: int) -> int:
    """Bytes of a part, so that an object of `expected` bytes, and one that is larger by the margin,
    has no more than MOST_PARTS.  Whole mebibytes."""
    least = -(-expected * _MARGIN // MOST_PARTS)
    return max(LEAST_PART, -(-least >> 20) << 20)


class ObjectSink:
    """One object.  The process that is dumped waits for the network: let it go first."""

    def __init__(self, url: str, expected: int) -> None:
        """`expected`: about how many bytes there will be.  SinkError: there is no such store."""
        self._name = url
        self._pieces: queue.Queue[bytes | _Aborted | None] = queue.Queue(_MOST_PIECES)
        self._waiting = bytearray()
        self._worker = Worker("gcorefs-upload")
        self._upload: Future[Any] | None = None
        self._part = part_size(expected)
        with self._told():
            bucket, _, self._path = url.partition("://")[2].partition("/")
            self._store: ObjectStore = from_url(f"{url.partition('://')[0]}://{bucket}")

    def write(self, data: memoryview) -> None:
        self._waiting += data
        if len(self._waiting) >= _PIECE:
            self._send()

    def _send(self) -> None:
        if self._upload is None:
            self._upload = self._worker.submit(self._put)
        piece, self._waiting = bytes(self._waiting), bytearray()
        self._give(piece)

    def _give(self, piece: bytes | None) -> None:
        """SinkError: the upload has failed."""
        assert self._upload is not None
        while True:
            if self._upload.done():
                with self._told():
                    self._upload.result()
                raise SinkError(self._name, OSError(errno.EIO, "the upload ended too early"))
            with contextlib.suppress(queue.Full):
                self._pieces.put(piece, timeout=0.1)
                return

    def _put(self) -> None:
        obstore.put(
            self._store,
            self._path,
            self._come(),
            chunk_size=self._part,
            max_concurrency=_MOST_AT_ONCE,
        )

    def _come(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, _Aborted):
                time.sleep(_SETTLING)
                raise piece
            yield piece

    def commit(self) -> None:
        self._send()
        self._give(None)
        assert self._upload is not None
        with self._told():
            self._upload.result()
        self._upload = None
        self._worker.close()

    def abort(self) -> None:
        if self._upload is not None:
            # What waits is dropped, so that there is room for the word that ends it.
            with contextlib.suppress(queue.Empty):
                while True:
                    self._pieces.get_nowait()
            with contextlib.suppress(queue.Full):
                self._pieces.put_nowait(_Aborted())
            wait([self._upload], _ABORT_TIMEOUT)
            self._upload = None
        self._worker.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise SinkError(self._name, OSError(_errno_of(error), _reason(error))) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the library, which exports no class
                raise
            why = "the library for object stores has failed"
            raise SinkError(self._name, OSError(errno.EIO, why)) from error


def _errno_of(error: Exception) -> int:
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return errno.EACCES
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    return errno.EIO


def _reason(error: Exception) -> str:
    """The first line of what obstore says; the rest is for its developers."""
    text = str(error).strip() or os.strerror(_errno_of(error))
    return text.splitlines()[0]

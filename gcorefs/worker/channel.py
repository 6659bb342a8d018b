"""How a message goes through a socket: pickled, with the files that it refers to.

A message is one packet of a SOCK_SEQPACKET socket (unix(7)).  A long message is written to a memfd,
and its packet has only this file, so that no packet is too long for the buffer of the socket.  An
OpenFile in a message arrives as an OpenFile of the receiver (SCM_RIGHTS).
"""

import array
import io
import os
import pickle
import select
import socket
import threading
from collections.abc import Sequence
from typing import Any

from gcorefs.kernel.open_file import OpenFile

LONGEST = 64 << 10
"""The most bytes of a packet.  Several packets fit into the buffer of a socket (socket(7),
wmem_default)."""

_MOST_FILES = 16
PACKET_SPACE = LONGEST + 1
FILE_SPACE = socket.CMSG_SPACE(_MOST_FILES * array.array("i").itemsize)

_HERE, _IN_FILE = b"h", b"f"

Ancillary = Sequence[tuple[int, int, Any]]


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.files: list[OpenFile] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, OpenFile):
            return None
        if obj not in self.files:
            self.files.append(obj)
        return self.files.index(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, files: Sequence[OpenFile]) -> None:
        super().__init__(file)
        self._files = files

    def persistent_load(self, pid: int) -> OpenFile:
        return self._files[pid]


class Packet:
    """A message that is ready to be sent."""

    def __init__(self, message: object) -> None:
        """EMFILE, ENOMEM."""
        text = io.BytesIO()
        pickler = _Pickler(text)
        pickler.dump(message)
        self._files = pickler.files
        self.data = _HERE + text.getbuffer()
        if len(self.data) > LONGEST:
            long_text = OpenFile(os.memfd_create("gcorefs-message", os.MFD_CLOEXEC))
            with open(long_text.number, "wb", closefd=False) as file:
                file.write(text.getbuffer())
            self.data = _IN_FILE
            self._files = [*self._files, long_text]

    @property
    def ancillary(self) -> list[tuple[int, int, "array.array[int]"]]:
        """For sendmsg(2), as long as this object lives."""
        numbers = array.array("i", [file.number for file in self._files])
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else []


def unpack(data: bytes, ancillary: Ancillary) -> Any:
    """The message that recvmsg(2) has received.  None at the end of the conversation."""
    numbers = array.array("i")
    for level, kind, part in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(part[: len(part) - len(part) % numbers.itemsize])
    files = [OpenFile(number) for number in numbers]
    if not data:
        return None
    text = data[len(_HERE) :]
    if data[: len(_IN_FILE)] == _IN_FILE:
        long_text = files.pop()
        with open(long_text.number, "rb", closefd=False) as file:
            file.seek(0)
            text = file.read()
    return _Unpickler(io.BytesIO(text), files).load()


class Channel:
    """A worker's end of the conversation.  Any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """EPIPE, ECONNRESET: the server is gone."""
        packet = Packet(message)
        with self._lock:
            self._socket.sendmsg([packet.data], packet.ancillary, socket.MSG_NOSIGNAL)

    def receive(self, seconds: float | None = None) -> Any:
        """The next message; None if the server is gone.  TimeoutError after `seconds`."""
        # Not settimeout(): it holds for `send` as well, and a message would be lost.  Not poll(2):
        # it waits 24 days at most.  A worker has no file descriptor that is too high for select(2).
        if not select.select([self._socket], [], [], seconds)[0]:
            raise TimeoutError
        try:
            data, ancillary, *_ = self._socket.recvmsg(
                PACKET_SPACE, FILE_SPACE, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None
        return unpack(data, ancillary)

"""Entries of the journal of systemd, in its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL).

The prefixes of sd-daemon(3) would give a line a priority, and nothing else.  The protocol gives it
fields: `journalctl GCOREFS_PID=1234` finds each stop of a process, and because of OBJECT_PID
`journalctl -u myapp` shows that gcorefs has stopped it (systemd.journal-fields(7)).

We never wait for the journal: it may be the process that we hold.  An entry that it does not take
at once is lost.
"""

import contextlib
import os
import re
import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"

STOPPED = "5a1c2322c2ec460a9441a3a4b1e71c2b"
"""The MESSAGE_ID of the entry about a process that was stopped and goes on."""

_NAME = re.compile("[A-Z][A-Z0-9_]{0,63}")


def priority(level: int) -> int:
    """That of syslog(3), for a level of the logging module."""
    return next((each for least, each in _PRIORITIES if level >= least), 7)


_PRIORITIES = ((50, 2), (40, 3), (30, 4), (20, 6))


def is_journal(fd: int) -> bool:
    """True if the journal reads what is written to that descriptor (systemd.exec(5),
    $JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    with contextlib.suppress(OSError):
        found = os.fstat(fd)
        return (device, inode) == (str(found.st_dev), str(found.st_ino))
    return False


def entry(fields: Mapping[str, object]) -> bytes:
    """The fields as one datagram.  A value may have any byte."""
    return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: object) -> bytes:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a field")
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    if b"\n" not in data:
        return b"%b=%b\n" % (name.encode(), data)
    return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


class Journal:
    """The journal of this machine."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, fields: Mapping[str, object], timeout: float = 0.0) -> None:
        """OSError: the entry is lost, because there is no journal, or it reads nothing.

        `timeout`: seconds, for a sender that holds no process.
        """
        self._socket.settimeout(timeout)
        self._socket.sendto(entry(fields), self._path)

    def close(self) -> None:
        self._socket.close()

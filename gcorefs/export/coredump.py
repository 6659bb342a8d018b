"""A core where systemd-coredump keeps those of crashes, so that coredumpctl(1) finds it.

coredumpctl reads entries of the journal: the MESSAGE_ID and the COREDUMP_* fields that
systemd-coredump sends (systemd-coredump(8)).  It deletes old files by their names
(coredump.conf(5), MaxUse=).
"""

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from gcorefs.export.sink import Sink, SinkError, open_sink
from gcorefs.telemetry.journal import Journal

FOLDER = "/var/lib/systemd/coredump"

MESSAGE_ID = "fc2e22bc6ee647b6b90729ab34a250b1"
"""SD_MESSAGE_COREDUMP (systemd's sd-messages.h)."""

_SIGNAL = "0"
"""coredumpctl ignores an entry without a signal.  There was none."""

_INFO = 6
_TIMEOUT = 5.0
"""Seconds in which the journal takes an entry."""

_UNITS = (b".service", b".scope", b".mount", b".socket", b".swap")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is told of the process."""

    pid: int
    uid: int
    gid: int
    comm: bytes
    exe: bytes
    """Empty if it is not shown."""
    cmdline: bytes
    """Words with spaces between them; 64 KiB at most."""
    cgroup: bytes
    """Its path in systemd's hierarchy."""
    boot_id: str
    """32 hexadecimal digits."""
    hostname: str


def file_name(subject: Subject, usec: int, suffix: str) -> str:
    """`usec`: since the epoch.  `suffix`: .zst, or nothing."""
    # systemd-coredump escapes what a name of a file may not have, and the dot, which separates.
    comm = "".join(
        chr(byte)
        if chr(byte).isascii() and chr(byte) not in "\\/. " and byte > 32
        else f"\\x{byte:02x}"
        for byte in subject.comm
    )
    return f"core.{comm}.{subject.uid}.{subject.boot_id}.{subject.pid}.{usec}{suffix}"


def fields(subject: Subject, usec: int, path: str) -> dict[str, object]:
    """The entry of the journal about the core at `path`."""
    name = subject.comm.decode("utf-8", "replace")
    found: dict[str, object] = {
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": _INFO,
        "SYSLOG_IDENTIFIER": "gcorefs",
        "MESSAGE": f"Process {subject.pid} ({name}) of user {subject.uid} lives, and was dumped by "
        "gcorefs.",
        "COREDUMP_PID": subject.pid,
        "COREDUMP_UID": subject.uid,
        "COREDUMP_GID": subject.gid,
        "COREDUMP_SIGNAL": _SIGNAL,
        "COREDUMP_TIMESTAMP": usec,
        "COREDUMP_COMM": subject.comm,
        "COREDUMP_EXE": subject.exe,
        "COREDUMP_CMDLINE": subject.cmdline,
        "COREDUMP_CGROUP": subject.cgroup,
        "COREDUMP_HOSTNAME": subject.hostname,
        "COREDUMP_FILENAME": path,
        "OBJECT_PID": subject.pid,
        **_units(subject.cgroup),
    }
    return {key: value for key, value in found.items() if value not in (b"", "")}


def _units(cgroup: bytes) -> Mapping[str, object]:
    """The unit and the slice in which the process is (systemd.unit(5))."""
    parts = [part.removeprefix(b"_") for part in cgroup.split(b"/")]
    units = [part for part in parts if part.endswith(_UNITS)]
    slices = [part for part in parts if part.endswith(b".slice")]
    return {
        **({"COREDUMP_UNIT": units[0]} if units else {}),
        **({"COREDUMP_USER_UNIT": units[1]} if units[1:] else {}),
        **({"COREDUMP_SLICE": slices[-1]} if slices else {}),
    }


class CoredumpSink:
    """A file with such a name.  When it is complete, the journal is told."""

    def __init__(self, subject: Subject, suffix: str, folder: str = FOLDER) -> None:
        """SinkError."""
        self._subject = subject
        self._usec = time.time_ns() // 1000
        self.path = os.path.join(folder, file_name(subject, self._usec, suffix))
        try:
            self._to: Sink = open_sink(self.path, is_chosen=False)
        except SinkError as error:
            if error.errno == errno.ENOENT:
                why = "No such file or directory: is systemd-coredump installed?"
                raise SinkError(folder, OSError(errno.ENOENT, why)) from error
            raise

    def write(self, data: memoryview) -> None:
        self._to.write(data)

    def commit(self) -> None:
        self._to.commit()
        journal = Journal()
        try:
            journal.send(fields(self._subject, self._usec, self.path), _TIMEOUT)
        except OSError as error:
            why = (
                f"the journal: {error.strerror}: the core is complete, but coredumpctl will not "
                "find it; start systemd-journald"
            )
            raise SinkError(self.path, OSError(error.errno or errno.EIO, why)) from error
        finally:
            journal.close()

    def abort(self) -> None:
        self._to.abort()

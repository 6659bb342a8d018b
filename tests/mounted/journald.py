"""A journal of its own: systemd's journald, without systemd, in a mount namespace."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mounted.conftest import eventually, run

JOURNALD = "/usr/lib/systemd/systemd-journald"

_START = """
mount -t tmpfs tmpfs /run
mount --bind "$1" /etc/machine-id
mkdir -p /run/systemd/journal /run/log/journal
exec "$0"
"""


# As systemd starts a service (systemd.exec(5), $JOURNAL_STREAM).
_AS_SERVICE = """
import os, socket, sys
stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect("/run/systemd/journal/stdout")
stream.sendall(b"gcorefs\\n\\n6\\n1\\n0\\n0\\n0\\n")
found = os.fstat(stream.fileno())
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
for number in (1, 2):
    os.dup2(stream.fileno(), number)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Journal:
    """Commands run in its namespace see its sockets at their usual places."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def inside(self, *words: object) -> list[str]:
        """A command in its namespace."""
        return ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", *map(str, words)]

    def as_service(self, *words: object) -> list[str]:
        """A command whose standard output and error the journal reads."""
        return self.inside(sys.executable, "-c", _AS_SERVICE, *words)

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        words = ("journalctl", "-q", "-D", "/run/log/journal", "-o", "json", *matches)
        found = run(*self.inside(*words))
        return [json.loads(line) for line in found.stdout.splitlines()]

    def wait_for(self, count: int, *matches: str) -> list[dict[str, Any]]:
        eventually(lambda: len(self.entries(*matches)) >= count)
        return self.entries(*matches)


@contextlib.contextmanager
def journald(folder: Path) -> Iterator[Journal]:
    machine = folder / "machine-id"
    machine.write_text(uuid.uuid4().hex + "\n")
    if not Path("/etc/machine-id").exists():  # a root directory that was never booted
        Path("/etc/machine-id").touch()
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", _START, JOURNALD, str(machine)]
    ) as process:
        try:
            socket = f"/proc/{process.pid}/root/run/systemd/journal/stdout"
            eventually(lambda: os.path.exists(socket))
            yield Journal(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

"""systemd's view: a unit without faults, and a service that is ready when its mount answers."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Mount, text_of
from tests.mounted.conftest import UNIT, end, run


def test_the_unit_has_no_faults(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert "\nType=notify\n" in text
    program = "/usr/local/bin/gcorefs"
    assert f"\nExecStart={program} mount --foreground /mnt/gcore\n" in text
    # The program must be there for the verification; nothing else is changed.
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(program, str(GCOREFS)))
    result = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


# Every request that is answered is reported to the socket that hears of readiness.
ANSWERS = """
import functools, os, socket
from gcorefs.mount.fs import GcoreFS

def reported(handler):
    @functools.wraps(handler)
    async def handle(*arguments, **named):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"answers", os.environ["NOTIFY_SOCKET"])
        return await handler(*arguments, **named)
    return handle

for name in ("getattr", "lookup", "opendir", "statfs"):
    setattr(GcoreFS, name, reported(getattr(GcoreFS, name)))
"""


def test_readiness_is_told_after_the_mount_has_answered(
    unmounted: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ANSWERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        command = [GCOREFS, "mount", "--foreground", "--log-file", unmounted.log, unmounted.path]
        with subprocess.Popen(text_of(command)) as server:
            try:
                heard = []
                while b"READY=1" not in heard:
                    heard.append(listener.recv(4096))
                assert heard[0] == b"answers"
                assert str(os.getpid()) in os.listdir(unmounted.path)
            finally:
                end(server.pid)
        assert server.returncode == 0

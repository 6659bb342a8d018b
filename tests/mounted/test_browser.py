"""The renderer of a browser in its sandbox: more than a tebibyte reserved, its own namespaces, a
seccomp filter.  It is dumped while its page works and answers."""

import json
import os
import signal
import subprocess
import urllib.parse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gcorefs.kernel.proc import procfile, task_stat, task_status, tasks
from tests.conftest import Mount
from tests.mounted.conftest import AS_NOBODY, NOBODY, eventually, is_free, is_stopped, opened
from tests.mounted.test_workloads import backtraces

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]

DUMPS = 20
MIB, TIB = 1 << 20, 1 << 40

# Counts, and checks the data that it uses: its own memory, and the answers of a worker.
PAGE = """
<script>
let canary = "CANARY", count = 0, answers = 0, errors = [];
const words = new Float64Array(100000).map((_, i) => i);
const code = "onmessage = e => postMessage(e.data * 2)";
const worker = new Worker(URL.createObjectURL(new Blob([code])));
worker.onmessage = e => { e.data == 2 * answers ? worker.postMessage(++answers)
                                                : errors.push("worker: " + e.data); };
worker.onerror = e => errors.push("worker: " + e.message);
onerror = message => errors.push(message);
worker.postMessage(0);
setInterval(() => {
    if (words.reduce((a, b) => a + b) != 4999950000) errors.push("sum");
    count++;
}, 1);
</script>
"""
REPORT = "JSON.stringify({count, answers, errors})"


_ABOVE = 100  # above our open files: the browser reads commands from 3 and writes answers to 4


class Browser:
    """Chromium without a window, controlled through two pipes (--remote-debugging-pipe)."""

    def __init__(self, profile: Path) -> None:
        told, said = _ABOVE, _ABOVE + 1
        ends = [*os.pipe(), *os.pipe()]
        os.dup2(ends[0], told, inheritable=True)
        os.dup2(ends[3], said, inheritable=True)
        self._tell, self._hear = ends[1], ends[2]
        os.close(ends[0])
        os.close(ends[3])
        script = f'exec "$@" 3<&{told} 4>&{said} {told}<&- {said}>&-'
        command = [*AS_NOBODY, "bash", "-c", script, "bash"]
        command += ["chromium-headless-shell", "--remote-debugging-pipe", "--disable-gpu"]
        with (profile / "log").open("wb") as log:
            self.popen = subprocess.Popen(
                [*command, f"--user-data-dir={profile}", "about:blank"],
                pass_fds=(told, said),
                env=os.environ | {"HOME": str(profile)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(told)
        os.close(said)
        self._heard = b""
        self._calls = 0

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._tell, json.dumps(message).encode() + b"\0")
        while True:
            text, end, rest = self._heard.partition(b"\0")
            if end:
                self._heard = rest
                answer: dict[str, Any] = json.loads(text)
                if answer.get("id") == self._calls:
                    result: dict[str, Any] = answer["result"]
                    return result
            else:
                piece = os.read(self._hear, 1 << 16)
                assert piece, "the browser has ended"
                self._heard += piece

    def open(self, html: str) -> str:
        """Open a page.  Returns the name of its session."""
        url = "data:text/html," + urllib.parse.quote(html)
        page = self.call("Target.createTarget", url=url)["targetId"]
        session: str = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        return session

    def value(self, session: str, expression: str) -> Any:
        result = self.call("Runtime.evaluate", session, expression=expression)["result"]
        assert "value" in result, result
        return result["value"]

    def renderers(self) -> list[int]:
        found = self.call("SystemInfo.getProcessInfo")["processInfo"]
        return [process["id"] for process in found if process["type"] == "renderer"]

    def end(self) -> None:
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(timeout=20)
        os.close(self._tell)
        os.close(self._hear)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    profile = tmp_path / "profile"
    profile.mkdir()
    os.chown(profile, NOBODY, NOBODY)
    browser = Browser(profile)
    yield browser
    browser.end()


def renderer_of(browser: Browser, session: str) -> int:
    """The process in which the scripts of a page run; a browser keeps spare ones ready."""
    before = {pid: utime(pid) for pid in browser.renderers()}
    browser.value(session, "for (let i = 0; i < 3e8; i++); 0")
    return max(before, key=lambda pid: utime(pid) - before[pid])


def utime(pid: int) -> int:
    """The user time of all its threads."""
    return task_stat.parse_times(procfile.read(f"{pid}/stat"))[0]


def populated(pid: int) -> int:
    status = task_status.status(pid)
    return sum(int(status[key].split()[0]) for key in ("RssAnon", "RssShmem", "VmSwap")) * 1024


def test_a_renderer_does_not_notice(browser: Browser, mount: Mount, tmp_path: Path) -> None:
    session = browser.open(PAGE.replace("CANARY", canary := os.urandom(16).hex()))
    eventually(lambda: bool(browser.value(session, "typeof answers == 'number' && answers > 10")))
    pid = renderer_of(browser, session)
    assert int(task_status.status(pid)["VmSize"].split()[0]) * 1024 > TIB
    assert task_status.status(pid)["Seccomp"] == b"2"
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    core = tmp_path / "core"
    last = {"count": 0, "answers": 0}
    for _ in range(DUMPS):
        subprocess.run(["cp", mount / pid, core], check=True, timeout=100)
        report = json.loads(browser.value(session, REPORT))
        assert report["errors"] == []
        assert report["count"] > last["count"]
        assert report["answers"] > last["answers"]
        last = report
    assert core.stat().st_size < populated(pid) * 1.5 + 2 * MIB
    assert canary.encode() in core.read_bytes()
    assert_gdb_reads_every_stack(pid, mount, core)
    eventually(partial(is_free, pid))


def assert_gdb_reads_every_stack(pid: int, mount: Mount, core: Path) -> None:
    """From the copy, from the mount, and from the process, while SIGSTOP holds it."""
    program = os.readlink(f"/proc/{pid}/exe")
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: is_stopped(pid))
        with opened(mount / pid):
            subprocess.run(["cp", mount / pid, core], check=True, timeout=100)
            from_core = backtraces("-c", str(core), program)
            from_mount = backtraces("-c", str(mount / pid), program)
        eventually(lambda: not any(task_status.tracer(pid, tid) for tid in tasks.tids(pid)))
        from_process = backtraces("-p", str(pid), program)
        # The core has the ids of the process in its own namespace.
        own = {
            tid: int(task_status.status(pid, tid)["NSpid"].split()[-1]) for tid in tasks.tids(pid)
        }
    finally:
        os.kill(pid, signal.SIGCONT)
    assert from_core == from_mount == {own[tid]: stack for tid, stack in from_process.items()}
    assert from_process.keys() == own.keys()
    assert all(len(stack) > 1 for stack in from_core.values())

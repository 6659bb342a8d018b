"""The uses of a service, done for real: python uses.py MOUNT [NAME ...]

Each use dumps a process of another kind and looks for bytes that only its memory has.  Prints one
JSON object: for each use null, or an error message.  The mount must have allow_other, and root must
run this.  It needs only Python's own modules, so it runs wherever the service runs.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
IN_NAMESPACE = ("unshare", "--user", "--map-root-user")
CANARY = os.urandom(16).hex()

# PR_SET_DUMPABLE is 4 (prctl(2)).
NON_DUMPABLE = """
import ctypes, signal
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
print("ready", flush=True)
signal.pause()
"""
HOLES = """
import mmap, os, signal
fd = os.memfd_create("holes")
os.ftruncate(fd, 16 << 20)
memory = mmap.mmap(fd, 16 << 20)
memory[8 << 20] = 1
print("ready", flush=True)
signal.pause()
"""

PYTHON = os.path.realpath(sys.executable)  # it may be where nobody else may execute it


@contextlib.contextmanager
def running(*words: str) -> Iterator[int]:
    """The pid of a program that has printed that it is ready, with the canary in its memory."""
    environment = os.environ | {"CANARY": CANARY}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", f"{words} did not start"
            yield process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def asleep(*words: str, program: str = "sleep") -> Iterator[int]:
    """The pid of sleep(1), behind words that change its user or namespace."""
    environment = os.environ | {"CANARY": CANARY}
    with subprocess.Popen([*words, program, "1000"], env=environment) as process:
        try:
            deadline = time.monotonic() + 200
            while Path(f"/proc/{process.pid}/comm").read_bytes() != b"sleep\n":
                assert time.monotonic() < deadline, f"{words} did not start"
                assert process.poll() is None, f"{words} ended"
            yield process.pid
        finally:
            process.kill()


def dump(path: Path, *reader: str) -> None:
    """Read a whole core with cat(1); AssertionError with the message of cat if that fails."""
    result = subprocess.run([*reader, "cat", path], capture_output=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr.decode().strip()
    assert result.stdout[:4] == b"\x7fELF"
    assert CANARY.encode() in result.stdout


def listing(mount: Path) -> None:
    found = {entry.name: entry for entry in os.scandir(mount)}
    assert found[str(os.getpid())].stat().st_uid == 0
    assert os.statvfs(mount).f_bsize > 0


def own(mount: Path) -> None:
    with asleep() as pid:
        dump(mount / str(pid))


def several_at_once(mount: Path) -> None:
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        pids = [stack.enter_context(asleep()) for _ in range(4)]
        list(pool.map(lambda pid: dump(mount / str(pid)), pids * 2))


def another_users(mount: Path) -> None:
    with asleep(*AS_NOBODY) as pid:
        dump(mount / str(pid))


def opened_by_another_user(mount: Path) -> None:
    with asleep(*AS_NOBODY) as pid:
        dump(mount / str(pid), *AS_NOBODY)


def set_uid(mount: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = f"{folder}/sleep"
        subprocess.run(["cp", "/usr/bin/sleep", program], check=True)
        os.chmod(program, 0o4755)
        with asleep(*AS_NOBODY, program=program) as pid:
            # execve(2) changes the name before it changes the user.
            while os.stat(f"/proc/{pid}").st_uid:
                pass
            dump(mount / str(pid))


def non_dumpable(mount: Path) -> None:
    with running(*AS_NOBODY, PYTHON, "-c", NON_DUMPABLE) as pid:
        # proc(5), /proc/PID: root owns the files in it then.
        assert (os.stat(f"/proc/{pid}").st_uid, os.stat(f"/proc/{pid}/auxv").st_uid) == (65534, 0)
        dump(mount / str(pid))


def in_a_child_namespace(mount: Path) -> None:
    with asleep(*IN_NAMESPACE) as pid:
        dump(mount / str(pid))


def in_a_child_namespace_of_another_user(mount: Path) -> None:
    with asleep(*AS_NOBODY, *IN_NAMESPACE) as pid:
        dump(mount / str(pid))


def shared_memory(pid: int) -> bytes:
    status = Path(f"/proc/{pid}/status").read_bytes()
    return next(line for line in status.splitlines() if line.startswith(b"RssShmem:"))


def holes_stay_holes(mount: Path) -> None:
    with running(PYTHON, "-c", HOLES) as pid:
        before = shared_memory(pid)
        dump(mount / str(pid))
        assert shared_memory(pid) == before


def polled(mount: Path) -> None:
    client = Path(__file__).parents[2] / "examples" / "poll-client.py"
    with asleep() as pid:
        command: list[str | Path] = [PYTHON, client, "--mount", mount, str(pid)]
        result = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr.decode().strip()
        assert CANARY.encode() in result.stdout


USES: dict[str, Callable[[Path], None]] = {
    use.__name__: use
    for use in (
        listing,
        own,
        several_at_once,
        another_users,
        opened_by_another_user,
        set_uid,
        non_dumpable,
        in_a_child_namespace,
        in_a_child_namespace_of_another_user,
        holes_stay_holes,
        polled,
    )
}


def main(mount: str, *names: str) -> None:
    told: dict[str, str | None] = {}
    for name in names or USES:
        try:
            USES[name](Path(mount))
            told[name] = None
        except (AssertionError, OSError) as error:
            told[name] = str(error)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The two sides of a stop: a target with a ledger, and a reader that can be killed."""

import contextlib
import mmap
import os
import select
import signal
from typing import Any

from gcorefs.kernel.proc import task_stat
from tests.conftest import Target
from tests.mounted.conftest import errno_of, eventually, is_free, offset_of

STOPPED = signal.SIGSTOP << 8 | 0x7F
CONTINUED = 0xFFFF
"""A wait status (wait(2), WIFSTOPPED and WIFCONTINUED)."""

LISTED = ("epoll_wait", "rt_sigtimedwait")
"""The sleepers in calls that a stop ends with an EINTR, which must be repaired."""

MOST_HEADER = 1 << 16
PIECE = 1 << 20


class Ledger(Target):
    """tests/targets/ledger.c below a parent that reports each status that it gets."""

    def __init__(self, argv: list[str]) -> None:
        self._told: list[dict[str, Any]] = []
        self._wakes = 0
        self._signals = 0
        self._changes = 0
        super().__init__(argv)

    def line(self) -> dict[str, Any]:
        while "wait" in (line := super().line()):
            self._told.append(line)
        return line

    def hear(self, status: int) -> None:
        """The next report of the parent; waits for it if necessary."""
        told = self._told.pop(0) if self._told else super().line()
        self._changes += 1
        assert told["wait"] == status
        # No SIGCHLD without a cause.  There may be fewer: the parent may wait just after SIGCONT
        # was sent and before the signal wakes it.
        assert told["sigchld"] <= self._changes

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.hear(STOPPED)

    def resume(self) -> None:
        """Continue it after SIGSTOP, while nobody traces it."""
        eventually(lambda: set(self.states().values()) == {("T", 0)})
        os.kill(self.pid, signal.SIGCONT)
        self.hear(CONTINUED)

    def signal(self, count: int) -> None:
        for _ in range(count):
            os.kill(self.pid, signal.SIGRTMIN)
        self._signals += count

    def assert_unhurt(self, eintr: int = 0) -> None:
        """Nobody traces it, it runs, and its ledger balances.  `eintr`: the expected number."""
        eventually(lambda: is_free(self.pid))
        assert self.ask("wake") == {"woken": 3}
        self._wakes += 1
        eventually(lambda: self.ask("account")["handled"] >= self._signals)
        account = self.ask("account")
        spurious = {name: account[name].pop("eintr") for name in LISTED}
        assert all(count <= eintr for count in spurious.values()), spurious
        assert account == {
            "handled": self._signals,
            "nap_eintr": 0,
            "nap_early": 0,
            "futex": {"woken": self._wakes, "eintr": 0, "other": 0},
            **{name: {"woken": self._wakes, "other": 0} for name in LISTED},
        }
        assert not self._told

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.kill()


class Reader:
    """A process that reads a core step by step, on command.

    Steps: open; read (the header, which waits for the core), or poll, or map; memory; ahead
    (read forward until the server reads ahead); close.
    """

    def __init__(self, path: str, address: int) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self.asked: list[str] = []
        """The steps without an answer yet."""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _close_all_but(commands, answers)
                _serve(commands, answers, _Steps(path, address))
            finally:
                os._exit(0)
        os.close(commands)
        os.close(answers)

    def ask(self, step: str) -> None:
        os.write(self._commands, f"{step}\n".encode())
        self.asked.append(step)

    def answer(self) -> int:
        """The errno of the step; 0 if it succeeded."""
        ready, _, _ = select.select([self._answers], [], [], 20)
        assert ready, f"the reader hangs in {self.asked[0]}"
        self.asked.pop(0)
        return os.read(self._answers, 1)[0]

    def do(self, step: str) -> int:
        self.ask(step)
        return self.answer()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Wait for its end; it is dead, or has nothing more to do."""
        os.close(self._commands)
        fd = os.pidfd_open(self.pid)
        try:
            ready, _, _ = select.select([fd], [], [], 20)
            assert ready, f"the reader hangs: {task_stat.stat(self.pid).state}"
        finally:
            os.close(fd)
            os.close(self._answers)
        os.waitpid(self.pid, 0)


class _Steps:
    def __init__(self, path: str, address: int) -> None:
        self._path = path
        self._address = address
        self._fd = -1
        self._header = b""

    def open(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY)

    def read(self) -> None:
        self._header = os.pread(self._fd, MOST_HEADER, 0)

    def poll(self) -> None:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.poll()

    def map(self) -> None:
        with mmap.mmap(self._fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapping:
            assert mapping[:4] == b"\x7fELF"

    def memory(self) -> None:
        self.read()
        assert len(os.pread(self._fd, 4096, self._offset())) == 4096

    def ahead(self) -> None:
        start = offset = self._offset()
        while offset < start + 8 * PIECE:
            # The kernel may divide a read, and return only the half that succeeded.
            piece = os.pread(self._fd, PIECE, offset)
            assert piece
            offset += len(piece)

    def close(self) -> None:
        os.close(self._fd)

    def _offset(self) -> int:
        return offset_of(self._header, self._address)


def _close_all_but(*wanted: int) -> None:
    """Close the files of the test in this process: when the test closes one, it must be closed."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, *wanted):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(int(name))


def _serve(commands: int, answers: int, steps: _Steps) -> None:
    with os.fdopen(commands) as lines:
        for line in lines:
            number = errno_of(getattr(steps, line.strip()))
            os.write(answers, bytes([number]))

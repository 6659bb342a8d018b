"""Which threads go back to their call on aarch64, and with which registers.  The kernel is made
up."""

import errno
import struct
from collections.abc import Mapping

import pytest

from gcorefs.arch.aarch64 import AARCH64, NT_ARM_SYSTEM_CALL
from gcorefs.arch.aarch64_calls import AUDIT_ARCH_AARCH64
from gcorefs.kernel import ptrace
from gcorefs.kernel.proc import address_space, current_call, task_status
from gcorefs.sources.call_again import CallAgain

TID = 7
PC, SP = 0x400100, 0x7FFFF000
EPOLL_PWAIT, OPENAT, RESTART_SYSCALL = 22, 56, 128
ARGUMENTS = [3, 0x1000, 64, (1 << 64) - 1, 0, 8]
EINTR = -errno.EINTR
CREATING = 0o100


class Thread:
    """A thread in its stop, and what the kernel knows of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **words: int) -> None:
        names = ["x0", *AARCH64.call_arguments[1:]]
        self.words = dict.fromkeys(AARCH64.general, 0)
        self.words |= dict(zip(names, [EINTR, *ARGUMENTS[1:]], strict=True))
        self.words |= {"x8": EPOLL_PWAIT, "sp": SP, "pc": PC} | words
        self.number = -1
        self.first = ARGUMENTS[0]
        self.seen: tuple[int, list[int], int, int] | None = (EPOLL_PWAIT, ARGUMENTS, SP, PC)
        self.code = b"\1\0\0\xd4"
        self.stack = b""
        self.status = dict.fromkeys(("SigPnd", "ShdPnd", "SigBlk", "SigCgt"), 0)
        self.again = CallAgain(TID, AARCH64, AARCH64.rewind or pytest.fail("no rewind"))
        for name in ("get_regset", "set_regset", "get_call_architecture"):
            monkeypatch.setattr(ptrace, name, getattr(self, name))
        monkeypatch.setattr(task_status, "status", self.shown_status)
        monkeypatch.setattr(current_call, "system_call", self.system_call)
        monkeypatch.setattr(address_space, "memory", self.memory)

    @property
    def general(self) -> bytes:
        return general(self.words)

    def get_regset(self, tid: int, note: int, buffer: object) -> bytes:
        if note == NT_ARM_SYSTEM_CALL:
            return self.number.to_bytes(4, "little", signed=True)
        return self.general

    def set_regset(self, tid: int, note: int, data: bytes) -> None:
        if note == NT_ARM_SYSTEM_CALL:
            self.number = int.from_bytes(data, "little", signed=True)
        else:
            values = struct.unpack("<34q", data)
            self.words = dict(zip(AARCH64.general, values, strict=True))

    def shown_status(self, pid: int, tid: int) -> dict[str, str]:
        return {name: f"{value:016x}" for name, value in self.status.items()}

    def get_call_architecture(self, tid: int) -> int:
        return AUDIT_ARCH_AARCH64

    def system_call(self, pid: int, tid: int) -> tuple[int, list[int], int, int] | None:
        if self.number == -1:
            return self.seen
        return self.number, [self.first, *ARGUMENTS[1:]], self.words["sp"], self.words["pc"]

    def memory(self, tid: int, address: int, length: int) -> bytes:
        if address < 1 << 24:
            return self.code
        before = SP - address
        return self.stack.rjust(before, b"\0")[-before:][:length]

    def is_sent(self) -> bool:
        found = self.general
        sent = general(self.words | {"x0": ARGUMENTS[0], "pc": PC - 4})
        self.again.look(TID)
        self.again.send(TID, found)
        assert self.number == -1
        assert self.general in (found, sent)
        return self.general == sent


def general(words: Mapping[str, int]) -> bytes:
    return struct.pack("<34Q", *(value % (1 << 64) for value in words.values()))


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Thread:
    return Thread(monkeypatch)


def test_a_thread_that_slept_in_the_call_goes_back(thread: Thread) -> None:
    assert thread.is_sent()


@pytest.mark.parametrize("number", [EPOLL_PWAIT, RESTART_SYSCALL])
def test_a_thread_that_ran_goes_back_if_it_is_behind_a_call(thread: Thread, number: int) -> None:
    thread.seen = None if number == EPOLL_PWAIT else (number, ARGUMENTS, SP, PC)
    assert thread.is_sent()


def test_a_thread_that_slept_in_no_call_stays(thread: Thread) -> None:
    thread.seen = (-1, [], SP, PC)
    assert not thread.is_sent()


def test_a_value_that_only_looks_like_eintr_stays(thread: Thread) -> None:
    thread.seen, thread.code = None, b"\x1f\x20\x03\xd5"  # nop
    assert not thread.is_sent()


def test_memory_that_cannot_be_read_is_no_call(thread: Thread) -> None:
    thread.seen, thread.code = None, b""
    assert not thread.is_sent()


def test_a_handler_that_has_just_returned_got_the_eintr(thread: Thread) -> None:
    thread.seen = None
    thread.stack = thread.general + bytes(5000)
    assert not thread.is_sent()


def test_the_frame_of_an_earlier_handler_does_not_count(thread: Thread) -> None:
    thread.seen = None
    thread.stack = general(thread.words | {"x19": 1}) + bytes(5000)
    assert thread.is_sent()


@pytest.mark.parametrize("result", [0, 1, -512, -514, -11])
def test_another_result_stays(monkeypatch: pytest.MonkeyPatch, result: int) -> None:
    assert not Thread(monkeypatch, x0=result).is_sent()


@pytest.mark.parametrize("flags", [0, CREATING])
def test_a_call_that_may_have_an_effect_stays(monkeypatch: pytest.MonkeyPatch, flags: int) -> None:
    thread = Thread(monkeypatch, x8=OPENAT, x2=flags)
    thread.seen = OPENAT, [3, 0x1000, flags, *ARGUMENTS[3:]], SP, PC
    assert thread.is_sent() == (flags == 0)


@pytest.mark.parametrize("number", [10, 14])
@pytest.mark.parametrize("queue", ["SigPnd", "ShdPnd"])
@pytest.mark.parametrize(
    ("blocked", "caught", "is_due"), [(0, -1, True), (0, 0, False), (-1, -1, False)]
)
def test_a_handler_that_is_to_run_leaves_the_eintr(
    thread: Thread, queue: str, number: int, blocked: int, caught: int, is_due: bool
) -> None:
    before = thread.general
    assert thread.is_sent()
    sent = thread.general
    bit = 1 << number - 1
    thread.status[queue] = bit
    thread.status |= {"SigBlk": bit & blocked, "SigCgt": bit & caught}
    thread.again.before_detach(TID)
    assert thread.general == (before if is_due else sent)
    thread.again.before_detach(TID)
    assert thread.general == (before if is_due else sent)


def test_a_thread_that_was_not_sent_is_let_go_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = Thread(monkeypatch, x0=0)
    assert not thread.is_sent()
    before, thread.status = thread.general, dict.fromkeys(thread.status, -1 % (1 << 64))
    thread.again.before_detach(TID)
    assert thread.general == before

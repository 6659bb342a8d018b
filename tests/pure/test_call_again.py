"""Which threads go back to their call on aarch64, and with which registers.  The kernel is made
up."""

import errno
import struct
from collections.abc import Mapping

import pytest

from gcorefs.arch.aarch64 import AARCH64, NT_ARM_SYSTEM_CALL
from gcorefs.arch.aarch64_calls import AUDIT_ARCH_AARCH64
from gcorefs.kernel import ptrace, seccomp, wait4
from gcorefs.kernel.proc import current_call
from gcorefs.sources.call_again import CallAgain

TID = 7
PC, SP = 0x400100, 0x7FFFF000
EPOLL_PWAIT, OPENAT, NANOSLEEP, RESTART_SYSCALL = 22, 56, 101, 128
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
        self.is_filtered = False
        self.log: list[str] = []
        self.again = CallAgain(TID, AARCH64, AARCH64.rewind or pytest.fail("no rewind"))
        for name in ("get_regset", "set_regset", "resume_to_call", "get_call_architecture"):
            monkeypatch.setattr(ptrace, name, getattr(self, name))
        monkeypatch.setattr(wait4, "take_status", lambda _: self.log.append("taken"))
        monkeypatch.setattr(current_call, "system_call", self.system_call)
        monkeypatch.setattr(seccomp, "has_seccomp_filter", lambda _: self.is_filtered)
        monkeypatch.setattr(CallAgain, "_memory", self.memory)

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

    def resume_to_call(self, tid: int) -> None:
        self.log.append("resumed")

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
        found = self.words.copy()
        self.again.look(TID)
        self.again.send(TID, self.general)
        assert self.number == -1
        assert self.again.is_under_way(TID) == (self.log == ["resumed"])
        if self.log:
            found |= {"x0": ARGUMENTS[0], "pc": PC - 4}
        assert self.general == general(found)
        return bool(self.log)


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


def test_a_signal_on_the_way_leaves_the_eintr(thread: Thread) -> None:
    before = thread.general
    assert thread.is_sent()
    thread.again.take_back(TID)
    assert thread.general == before
    assert not thread.again.is_under_way(TID)
    thread.again.take_back(TID)
    assert thread.general == before


def test_in_front_of_its_call_a_thread_is_as_it_was_sent(thread: Thread) -> None:
    assert thread.is_sent()
    sent, thread.number = thread.general, EPOLL_PWAIT
    thread.again.arrive(TID)
    assert (thread.general, thread.number) == (sent, EPOLL_PWAIT)
    assert thread.log == ["resumed", "taken"]
    assert not thread.again.is_under_way(TID)


@pytest.mark.parametrize("is_filtered", [False, True])
def test_a_filter_sees_the_call_that_it_knows(
    monkeypatch: pytest.MonkeyPatch, is_filtered: bool
) -> None:
    # The kernel has taken it back to the call already.
    thread = Thread(monkeypatch, x0=ARGUMENTS[0], x8=NANOSLEEP)
    thread.seen, thread.is_filtered = (NANOSLEEP, ARGUMENTS, SP, PC + 4), is_filtered
    found = thread.words.copy()
    thread.again.look(TID)
    thread.again.send(TID, thread.general)
    assert thread.general == general(found)
    assert thread.log == ["resumed"] * is_filtered
    if is_filtered:
        thread.words |= {"x8": RESTART_SYSCALL, "pc": PC + 4}
        thread.number = RESTART_SYSCALL
        thread.again.arrive(TID)
        assert thread.number == NANOSLEEP
        assert thread.general == general(found | {"pc": PC + 4})

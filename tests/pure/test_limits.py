"""Shares: each user has their own, all together are bounded, and root can always get in."""

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.hold.copy import Copy
from gcorefs.hold.room import RESERVE, NotCopied, Room
from gcorefs.kernel.proc import system_files
from gcorefs.mount import subordinate
from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.mount.limits import Budget, Copies, Limiters, Limits, UserLimiters
from gcorefs.mount.options import Options
from gcorefs.mount.subordinate import Subordinates
from gcorefs.process import cgroups

EACH, TOTAL = 5, 12
PID = 4711

takes = st.tuples(st.integers(0, 4), st.integers(1, EACH + 1))


def budget() -> Budget:
    return Budget(EACH, TOTAL, RequestReason.USER_FILES, RequestReason.ALL_FILES)


@given(st.lists(st.tuples(st.booleans(), takes), max_size=60))
def test_each_has_at_most_a_share_and_all_but_root_at_most_all(
    steps: list[tuple[bool, tuple[int, int]]],
) -> None:
    shares = budget()
    held: list[tuple[int, int]] = []
    for is_take, (uid, amount) in steps:
        if not is_take:
            if held:
                shares.give_back(*held.pop(amount % len(held)))
            continue
        used = Counter[int]()
        for owner, part in held:
            used[owner] += part
        expected = None
        if used[uid] + amount > EACH:
            expected = RequestReason.USER_FILES
        elif used.total() + amount > TOTAL and uid != 0:
            expected = RequestReason.ALL_FILES
        try:
            shares.take(uid, PID, amount)
        except RequestError as error:
            assert (error.reason, error.pid) == (expected, PID)
            assert f"uid {uid}" in str(error)
        else:
            assert expected is None
            held.append((uid, amount))
    for uid, amount in held:
        shares.give_back(uid, amount)
    for uid in range(5):
        shares.take(uid, PID, 1)  # nothing was lost


def test_what_is_lent_comes_back_whatever_happens() -> None:
    shares = budget()
    for _ in range(EACH + 1):
        with pytest.raises(ZeroDivisionError), shares.lent(1, PID):
            raise ZeroDivisionError
    with contextlib.ExitStack() as stack:
        for _ in range(EACH):
            stack.enter_context(shares.lent(1, PID))
        with pytest.raises(RequestError), shares.lent(1, PID):
            pass


async def test_a_thread_that_does_not_end_keeps_its_place_and_nobody_else_s() -> None:
    limiters = Limiters(2)
    end = threading.Event()

    def give_up(scope: trio.CancelScope) -> None:
        trio.from_thread.run_sync(scope.cancel)
        end.wait()

    try:
        for _ in range(2):
            with limiters.of(1) as limiter, trio.CancelScope() as scope:
                await trio.to_thread.run_sync(
                    give_up, scope, abandon_on_cancel=True, limiter=limiter
                )
        with limiters.of(1) as limiter:
            assert limiter.borrowed_tokens == limiter.total_tokens == 2
        with limiters.of(2) as other:
            assert await trio.to_thread.run_sync(lambda: 7, limiter=other) == 7
    finally:
        end.set()


async def test_a_limiter_is_the_same_for_all_who_use_it_at_one_time() -> None:
    """Also for a user without a place in it yet, because they wait for another limiter first."""
    limiters = Limiters(2)
    with limiters.of(1) as first:
        with limiters.of(1) as second:
            assert second is first
        async with first:
            pass
        with limiters.of(1) as third:
            assert third is first
    with limiters.of(1) as later:
        assert later is not first  # which was forgotten


@given(st.lists(st.tuples(st.booleans(), takes), max_size=60))
def test_copies_of_a_user_have_a_share_and_all_but_root_s_two(
    steps: list[tuple[bool, tuple[int, int]]],
) -> None:
    copies = Copies(Room(EACH), EACH)
    held: list[tuple[int, int]] = []
    for is_take, (uid, amount) in steps:
        if not is_take:
            if held:
                copies.give_back(*held.pop(amount % len(held)))
            continue
        used = Counter[int]()
        for owner, part in held:
            used[owner] += part
        fits = used[uid] + amount <= EACH and (uid == 0 or used.total() + amount <= 2 * EACH)
        assert copies.take(uid, amount) is fits
        if fits:
            held.append((uid, amount))
    for uid, amount in held:
        copies.give_back(uid, amount)
    for uid in range(2):
        assert copies.take(uid, EACH)  # nothing was lost


def test_memory_may_be_freed_while_it_is_counted() -> None:
    """By the garbage collector, so in the middle of a call of the same thread: here at each of the
    first lines of one."""
    copies = Copies(Room(EACH), EACH)
    assert copies.take(1, EACH)
    left = EACH

    def free(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code is not Copies.take.__code__:
            return None
        if event == "line" and left:
            left -= 1
            copies.give_back(1, 1)
        return free

    before = sys.gettrace()
    sys.settrace(free)
    try:
        assert copies.take(2, EACH)
    finally:
        sys.settrace(before)
    assert left == 0
    assert copies.take(1, EACH)


def test_what_does_not_fit_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_files, "available_memory", lambda: 1 << 60)
    room = Copies(Room(EACH), EACH).room(7)
    with pytest.raises(NotCopied, match="over copy_limit"):
        room.take(EACH + 1, 1)
    room.take(EACH, EACH)
    with pytest.raises(NotCopied, match="uid 7 has not enough of its copy_limit left"):
        room.take(EACH, 1)
    room.give_back(1)
    room.take(EACH, 1)
    monkeypatch.setattr(system_files, "available_memory", lambda: 0)
    room.give_back(1)
    with pytest.raises(NotCopied, match="memory is short"):
        room.take(EACH, 1)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """The limits of a machine on which user 1000 has the subordinate uids from 100000 on."""
    table = Subordinates("1000:100000:65536\n", lambda name: None)
    monkeypatch.setattr(subordinate, "of_this_host", lambda: table)
    return Limits(Options())


@pytest.mark.parametrize(
    "name", ["files", "others", "stops", "memory", "read_ahead", "requests"], ids=str
)
def test_a_subordinate_uid_has_a_part_of_its_owner_s_share(limits: Limits, name: str) -> None:
    shares: Budget = getattr(limits, name)
    most = shares.left(1000)
    shares.take(100_000, PID, most - 1)
    shares.take(100_001, PID)
    for uid in (100_002, 1000):
        with pytest.raises(RequestError):
            shares.take(uid, PID)
    shares.take(1001, PID)
    shares.give_back(100_000)
    shares.take(1000, PID)


@pytest.mark.parametrize("name", ["copies", "spools"])
def test_copies_for_a_subordinate_uid_are_its_owner_s(limits: Limits, name: str) -> None:
    copies: Copies = getattr(limits, name)
    assert copies.take(100_000, copies.each)
    assert not copies.take(100_001, 1)
    assert not copies.take(1000, 1)
    assert copies.take(1001, 1)
    copies.give_back(100_001, 1)
    assert copies.take(1000, 1)


async def test_threads_for_a_subordinate_uid_are_its_owner_s() -> None:
    table = Subordinates("1000:100000:65536\n", lambda name: None)
    limiters = UserLimiters(2, table.owner)
    with limiters.of(100_000) as one, limiters.of(100_001) as other, limiters.of(1000) as own:
        assert one is other is own
        with limiters.of(1001) as another:
            assert another is not own


def test_copies_that_begin_together_do_not_take_the_same_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = 8 << 20
    monkeypatch.setattr(system_files, "available_memory", lambda: RESERVE + free)
    monkeypatch.setattr(cgroups, "memory_limits", list)
    copies = Copies(Room(1 << 40), 1 << 40)
    first, second, third = (Copy(copies.room(uid)) for uid in (7, 8, 9))
    first.fit(5 << 20)
    with pytest.raises(NotCopied, match="memory is short"):
        second.fit(5 << 20)
    second.fit(2 << 20)
    first.fit(4 << 20)
    with pytest.raises(NotCopied, match="memory is short"):
        third.fit(3 << 20)
    third.fit(1 << 20)
    # What is filled does not count twice: the machine has less then.
    first.settle()
    free -= 4 << 20
    with pytest.raises(NotCopied, match="memory is short"):
        third.fit(3 << 20)
    third.prepare(2 << 20)
    free -= 2 << 20
    with pytest.raises(NotCopied, match="memory is short"):
        third.fit(3 << 20)
    del second  # it has filled nothing
    third.fit(4 << 20)


def test_what_a_user_s_share_does_not_have_is_not_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(system_files, "available_memory", lambda: RESERVE + 6)
    monkeypatch.setattr(cgroups, "memory_limits", list)
    copies = Copies(Room(EACH), EACH)
    copies.room(7).take(2, 2)
    for _ in range(10):
        with pytest.raises(NotCopied, match="has not enough of its copy_limit left"):
            copies.room(7).take(4, 4)
    copies.room(8).take(4, 4)
    with pytest.raises(NotCopied, match="memory is short"):
        copies.room(8).take(5, 1)

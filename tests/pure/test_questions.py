"""Questions about processes that do not answer: a thread that hangs counts for the user of the
process, and keeps nobody from all other processes."""

import os
import threading
from collections import Counter

import pytest
import trio
import trio.testing

from gcorefs.mount.questions import LOOK_TIMEOUT, Place, Questions, user_of
from gcorefs.process.errors import ProcessError, Reason

ASKER, ATTACKER = 1000, 7
THEIRS = range(1, 1001)
"""Processes of the attacker."""
OTHER = 5000
"""One of somebody else."""


def owner_of(pid: int) -> int:
    return ATTACKER if pid in THEIRS else pid


class Hanging:
    """Questions that are answered when somebody says so."""

    def __init__(self, questions: Questions, clock: trio.testing.MockClock) -> None:
        self.questions = questions
        self.begun = 0
        self.refused: list[str] = []
        self.end = threading.Event()
        self._clock = clock

    def _question(self) -> None:
        self.begun += 1
        self.end.wait()

    async def _ask(self, pid: int, uid: int) -> None:
        with pytest.raises(ProcessError) as caught:
            await self.questions.ask(pid, uid, self._question)
        assert caught.value.reason is Reason.STUCK
        self.refused.append(caught.value.detail)

    async def ask(self, pids: list[int], threads: int, uid: int = ASKER) -> Counter[str]:
        """Ask about all of them at one time, until so many threads hang.  Why there is no
        answer."""
        before, self.refused = self.begun, []
        async with trio.open_nursery() as nursery:
            for pid in pids:
                nursery.start_soon(self._ask, pid, uid)
            await trio.testing.wait_all_tasks_blocked()
            while self.begun < before + threads:
                await trio.lowlevel.checkpoint()
            self._clock.jump(LOOK_TIMEOUT)
        assert (self.begun, len(self.refused)) == (before + threads, len(pids))
        return Counter(self.refused)


@pytest.mark.parametrize("of_a_user", [100, 25])
async def test_a_process_that_does_not_answer_takes_no_thread_from_others(
    of_a_user: int, mock_clock: trio.testing.MockClock
) -> None:
    questions = Questions(of_a_user=of_a_user, user_of=owner_of).apart()
    hanging = Hanging(questions, mock_clock)
    try:
        said = await hanging.ask([1] * 1000, threads=10)
        assert said == {
            "/proc did not answer for 5 s": 10,
            "uid 1000 waits for other answers of /proc": 990,
        }
        assert await questions.ask(2, ASKER, lambda: 7) == 7
        # Nobody waits for it any more.
        with pytest.raises(ProcessError, match="/proc still does not answer"):
            await questions.ask(1, 1001, lambda: 7)
        assert trio.current_time() == LOOK_TIMEOUT
    finally:
        hanging.end.set()
    while True:
        try:
            assert await questions.ask(1, ASKER, lambda: 7) == 7
            break
        except ProcessError:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("of_a_user", [100, 25])
async def test_a_user_whose_processes_do_not_answer_keeps_nobody_from_those_of_others(
    of_a_user: int, mock_clock: trio.testing.MockClock
) -> None:
    questions = Questions(of_a_user=of_a_user, user_of=owner_of)
    hanging = Hanging(questions, mock_clock)
    try:
        said = await hanging.ask([*THEIRS], threads=of_a_user)
        assert said["/proc did not answer for 5 s"] == of_a_user
        assert await questions.ask(OTHER, ASKER, lambda: 7) == 7
        assert await questions.ask(0, ASKER, lambda: 7) == 7
        # Further processes of the same user take no further thread, whoever asks.
        for uid in (ASKER, 0, ATTACKER):
            with pytest.raises(ProcessError, match="too many processes of uid 7 do not answer"):
                await questions.ask(max(THEIRS), uid, lambda: 7)
    finally:
        hanging.end.set()
    while True:
        try:
            assert await questions.ask(max(THEIRS), ASKER, lambda: 7) == 7
            break
        except ProcessError:
            await trio.lowlevel.checkpoint()


async def test_a_question_about_all_processes_stays_with_who_asked(
    mock_clock: trio.testing.MockClock,
) -> None:
    questions = Questions(of_a_user=5, user_of=owner_of)
    hanging = Hanging(questions, mock_clock)
    try:
        await hanging.ask([0] * 20, threads=5)
        await hanging.ask([0], threads=0)
        assert await questions.ask(0, 1001, lambda: 7) == 7
    finally:
        hanging.end.set()


async def test_a_question_that_is_withdrawn_says_nothing_of_its_process() -> None:
    """Its thread may be about to have the answer."""
    questions = Questions(user_of=owner_of)
    begun, end = threading.Semaphore(0), threading.Event()

    def question() -> None:
        begun.release()
        end.wait()

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(questions.ask, 1, ASKER, question)
            for _ in range(3):
                await trio.to_thread.run_sync(begun.acquire)
            nursery.cancel_scope.cancel()
        assert await questions.ask(1, ASKER, lambda: 7) == 7
    finally:
        end.set()


async def test_a_waiter_for_a_second_place_that_gives_up_leaves_the_first() -> None:
    first, second = trio.CapacityLimiter(1), trio.CapacityLimiter(1)
    async with second:
        with trio.move_on_after(0):
            await Place(first, second).acquire_on_behalf_of(object())
        assert first.borrowed_tokens == 0
    place, borrower = Place(first, second), object()
    assert not place.is_taken
    await place.acquire_on_behalf_of(borrower)
    assert (first.borrowed_tokens, second.borrowed_tokens, place.is_taken) == (1, 1, True)
    place.release_on_behalf_of(borrower)
    assert (first.borrowed_tokens, second.borrowed_tokens, place.is_taken) == (0, 0, False)


async def test_the_place_of_a_user_is_given_back_once() -> None:
    user, process = trio.CapacityLimiter(1), trio.CapacityLimiter(1)
    place, borrower = Place(user, process), object()
    await place.acquire_on_behalf_of(borrower)
    ended: list[bool] = []
    place.leave_user(lambda: ended.append(True))
    assert (user.borrowed_tokens, process.borrowed_tokens, ended) == (0, 1, [])
    place.release_on_behalf_of(borrower)
    assert (user.borrowed_tokens, process.borrowed_tokens, ended) == (0, 0, [True])


def test_the_user_of_a_process_is_known() -> None:
    assert user_of(os.getpid()) == os.getuid()
    assert user_of(1 << 22) is None

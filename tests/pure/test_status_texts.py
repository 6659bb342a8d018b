"""The texts of status files: one at a time for each user, and a new one for each reader."""

import json
import threading
from typing import Any, cast

import trio
import trio.testing

from gcorefs.mount.control import StatusTexts
from gcorefs.mount.held import Held


class Nothing:
    """Holds no process, and counts the questions."""

    def __init__(self) -> None:
        self.asked = 0

    def cores(self) -> list[Any]:
        self.asked += 1
        return []


def test_all_questions_meanwhile_share_one() -> None:
    held = Nothing()
    texts = StatusTexts(cast(Held, held))
    found: list[bytes] = []

    async def ask() -> None:
        found.append(await texts.of(1000))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)

    trio.run(main)
    assert held.asked in (1, 2)  # one may have begun before the others asked
    assert [json.loads(text)["stops"] for text in found] == [[]] * 100


def test_a_second_question_gets_a_new_text() -> None:
    held = Nothing()
    texts = StatusTexts(cast(Held, held))

    async def main() -> None:
        for uid in (1000, 1000, 1001):
            await texts.of(uid)

    trio.run(main)
    assert held.asked == 3


class Slow(Nothing):
    """Does not get a processor for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def cores(self) -> list[Any]:
        self.goes_on.wait()
        return super().cores()


async def test_nobody_waits_for_longer_because_a_text_was_late(
    mock_clock: trio.testing.MockClock,
) -> None:
    held = Slow()
    texts = StatusTexts(cast(Held, held))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(texts.of, 1000)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(100)
        held.goes_on.set()
    mock_clock.autojump_threshold = 0
    before = trio.current_time()
    await texts.of(1000)
    assert held.asked == 2
    assert trio.current_time() - before < 100

"""The texts of status files: one at a time for each user, and a new one for each reader."""

import json
from typing import Any, cast

import trio

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

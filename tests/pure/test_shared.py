"""One answer for all who ask the same at the same time."""

from functools import partial

import pytest
import trio
import trio.testing

from gcorefs.mount.shared import Shared

ASKERS = 100


class Source:
    """Gives 1, then 2 ... each when the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = trio.Event()

    async def ask(self) -> int:
        self.asked += 1
        answer = self.asked
        await self.may_answer.wait()
        return answer


def test_who_asks_while_an_answer_is_sought_shares_the_next() -> None:
    async def main() -> None:
        shared, source = Shared[int](), Source()
        answers: list[int] = []

        async def ask() -> None:
            answers.append(await shared.of("pids", source.ask))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(ASKERS):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert source.asked == 1
            source.may_answer.set()
        assert answers == [1] + [2] * ASKERS
        assert await shared.of("pids", source.ask) == 3

    trio.run(main)


def test_another_question_has_another_answer() -> None:
    async def main() -> None:
        shared, sources = Shared[int](), (Source(), Source())
        async with trio.open_nursery() as nursery:
            for key, source in enumerate(sources):
                nursery.start_soon(partial(shared.of, key, source.ask))
            await trio.testing.wait_all_tasks_blocked()
            assert [source.asked for source in sources] == [1, 1]
            for source in sources:
                source.may_answer.set()

    trio.run(main)


def test_an_error_is_for_who_asked() -> None:
    async def fail() -> int:
        await trio.lowlevel.checkpoint()
        raise PermissionError

    async def main() -> None:
        shared, source = Shared[int](), Source()
        source.may_answer.set()

        async def ask_in_vain() -> None:
            with pytest.raises(PermissionError):
                await shared.of("pids", fail)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            assert await shared.of("pids", source.ask) == 1

    trio.run(main)

"""One answer for all who ask the same at the same time."""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

import trio

T = TypeVar("T")


@dataclass(slots=True)
class _Turn:
    """Of those who ask the same."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    askers: int = 0
    begun: int = 0
    """Number of the asker after whom the last answer was begun."""
    answer: object = None


class Shared(Generic[T]):
    """All who ask while an answer is sought share the next: it is begun after they have asked."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}
        self._askers = 0

    async def of(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer that `ask` gives for `key`, to this caller or to another.  Raises what `ask`
        of this caller raises."""
        self._askers += 1
        number = self._askers
        turn = self._turns.setdefault(key, _Turn())
        turn.askers += 1
        try:
            async with turn.lock:
                if turn.begun < number:
                    begun = self._askers
                    turn.answer = await ask()
                    turn.begun = begun
                return cast(T, turn.answer)
        finally:
            turn.askers -= 1
            if not turn.askers:
                del self._turns[key]

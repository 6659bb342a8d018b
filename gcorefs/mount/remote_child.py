"""The child that a worker has the process of a stop make (hold=fork), as the event loop sees it."""

import trio

from gcorefs.mount.answers import Answers, error_of, new_number
from gcorefs.mount.crew import Link
from gcorefs.worker import messages as say


class RemoteChild:
    """The child of one stop, of which there is one at most."""

    def __init__(self, stop: int, answers: Answers) -> None:
        """`stop`: the number of the request for the stop."""
        self._stop = stop
        self._answers = answers
        self._link: Link | None = None  # to the worker that was asked for it, until `end`
        self._has_to_be_reaped = False
        self._gone = trio.Event()

    async def make(self, link: Link) -> say.Forked | None:
        """Have the process make it.  None: the worker answers no more.  ProcessError,
        WorkerFailed."""
        number = new_number()
        answers = self._answers.to(number)
        self._link = link
        link.say(say.Fork(number))
        try:
            async for answer in answers:
                if isinstance(answer, say.Failed):
                    raise error_of(answer)
                assert isinstance(answer, say.Forked)
                return answer
        finally:
            self._answers.forget(number)
        return None

    @property
    def is_own(self) -> bool:
        """True until the end of a child that the process has to reap, in a second stop."""
        return self._has_to_be_reaped and not self._gone.is_set()

    def kill(self) -> None:
        """Kill the child.  `end` comes later."""
        if self._link is not None:
            self._link.say(say.EndChild(self._stop, may_reap=False))

    def end(self) -> None:
        """Kill the child, if there is one, and have the process reap it."""
        link, self._link = self._link, None
        if link is not None:
            link.say(say.EndChild(self._stop, may_reap=True))

    async def gone(self) -> None:
        """Wait until nothing is left of the child, after `end`."""
        await self._gone.wait()

    # What the worker tells.

    def hear(self, forked: say.Forked) -> None:
        """There is a child.  This counts also if nobody waits for it."""
        if forked.is_own:
            self._has_to_be_reaped = True

    def hear_end(self) -> None:
        """Nothing is left of the child, or nobody will tell."""
        self._gone.set()

"""Who of a crew stays after a stop, and who carries out the next one."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount import crew as crews
from gcorefs.mount.crew import Crew
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.policy import DEFAULT
from gcorefs.process.access import Opener
from gcorefs.worker import messages as say
from gcorefs.worker.channel import Channel
from gcorefs.worker.zygote import Zygote

OPENER = Opener(pid=1, uid=1000, gid=1000, groups=(), capabilities=0)
FEW = 2


class Workers:
    """In place of a zygote: the other end of each conversation."""

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        self._sockets: list[socket.socket] = []

    def worker(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sockets.append(theirs)
        self.channels.append(Channel(theirs))
        return ours

    def end(self) -> None:
        for each in self._sockets:
            each.close()


class Asker:
    """Is no worker, and has another stop begin whenever it is compared with one."""

    def __init__(self, crew: Crew, stop: RemoteStop) -> None:
        self._crew, self._stop = crew, stop

    def __eq__(self, other: object) -> bool:
        self._crew.take(self._stop)
        return False

    __hash__ = None  # type: ignore[assignment]


class Mount:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.workers = Workers()
        self.crew = Crew(cast(Zygote, self.workers))
        self.crew.start(nursery)
        self._pools = cast(Pools, SimpleNamespace(crew=self.crew))

    async def begin(self, pid: int) -> tuple[RemoteStop, Channel, int]:
        """A stop, the worker that it has, and its number."""
        stop = RemoteStop(Process(pid, 0), OPENER, DEFAULT, self._pools, lambda: None)
        stop.begin(0.0)
        for channel in self.workers.channels:
            try:
                message: Any = channel.receive(0.01)
            except TimeoutError:
                continue
            assert isinstance(message, say.Take)
            return stop, channel, message.number
        raise AssertionError("no worker was asked")

    async def let_go(self, stop: RemoteStop, channel: Channel, late: tuple[int, ...] = ()) -> bool:
        """Returns whether threads may be late."""
        stop.let_go()
        message = channel.receive(1)
        assert isinstance(message, say.Release)
        channel.send(say.Released(late, frozenset(), is_busy=not late))
        await stop.untraced()
        return bool(message.may_be_late)


@asynccontextmanager
async def mounted() -> AsyncIterator[Mount]:
    async with trio.open_nursery() as nursery:
        mount = Mount(nursery)
        try:
            yield mount
        finally:
            mount.workers.end()  # every conversation ends, and the nursery with them


def test_a_worker_is_idle_only_after_its_last_stop() -> None:
    """The word of an earlier stop of the same process may come late."""

    async def main() -> None:
        async with mounted() as mount:
            first, channel, number = await mount.begin(7)
            await mount.let_go(first, channel)
            second, same, second_number = await mount.begin(7)
            assert same is channel
            await mount.let_go(second, channel, late=(7,))
            channel.send(say.Idle(number, may_go_on=True))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert second.late == (7,)
            _, other, _ = await mount.begin(8)
            assert other is not channel
            channel.send(say.Idle(second_number, may_go_on=True))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not second.late
            _, again, _ = await mount.begin(9)
            assert again is channel

    trio.run(main)


def test_workers_may_come_while_a_thread_asks_who_is_one() -> None:
    """The questions at the door run in threads."""

    async def main() -> None:
        async with mounted() as mount:
            await mount.begin(7)
            stop, _, _ = await mount.begin(8)
            assert Asker(mount.crew, stop) not in mount.crew

    trio.run(main)


def test_all_workers_with_late_threads_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """More stops of one user may end at once than there may be workers that wait for a user."""
    monkeypatch.setattr(crews, "_MOST_OF_ONE_USER", FEW)

    async def main() -> None:
        async with mounted() as mount:
            begun = [await mount.begin(pid) for pid in range(2 * FEW)]
            for stop, *_ in begun:
                stop.let_go()
            for _, channel, _ in begun:
                assert channel.receive(1) == say.Release(may_be_late=True)
            for stop, channel, _ in begun:
                channel.send(say.Released((1,), frozenset(), is_busy=False))
                await stop.untraced()
            for _, channel, number in begun[:FEW]:
                channel.send(say.Idle(number, may_go_on=True))
            await trio.testing.wait_all_tasks_blocked(0.01)
            stop, channel, _ = await mount.begin(2 * FEW)
            assert not await mount.let_go(stop, channel)

    trio.run(main)

"""Who of a crew stays after a stop, and who carries out the next one."""

import errno
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from gcorefs.hold.uncopied import HoldProcess
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount import crew as crews
from gcorefs.mount.crew import Crew
from gcorefs.mount.options import MountPolicy
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.policy import DEFAULT
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.tuning import Tuning
from gcorefs.worker import messages as say
from gcorefs.worker.channel import Channel
from gcorefs.worker.page import new_page
from gcorefs.worker.zygote import Zygote
from tests.tuned import tuned

OPENER = Opener(pid=1, uid=1000, gid=1000, groups=(), capabilities=0)
FEW = 2


class Workers:
    """In place of a zygote: the other end of each conversation."""

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        self.is_busy = False
        self._sockets: list[socket.socket] = []
        self._requests = socket.socketpair()
        self._sockets += self._requests
        self._requests[0].setblocking(False)

    def fileno(self) -> int:
        return self._requests[0].fileno()

    def fill(self) -> None:
        """Accept no request until `drain`."""
        self.is_busy = True
        with suppress(BlockingIOError):
            while True:
                self._requests[0].send(bytes(1 << 16))

    def drain(self) -> None:
        self.is_busy = False
        self._requests[1].setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._requests[1].recv(1 << 16)

    def worker(self) -> socket.socket:
        if self.is_busy:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sockets.append(theirs)
        self.channels.append(Channel(theirs))
        return ours

    def end(self) -> None:
        for each in self._sockets:
            each.close()


class Asker:
    """Is no worker, and has another one begin whenever it is compared with one."""

    def __init__(self, crew: Crew, nursery: trio.Nursery) -> None:
        self._crew, self._nursery = crew, nursery

    def __eq__(self, other: object) -> bool:
        self._crew.start(self._nursery)
        return False

    __hash__ = None  # type: ignore[assignment]


class Mount:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.workers = Workers()
        self.crew = Crew(cast(Zygote, self.workers))
        self.crew.start(nursery)
        self._pools = cast(Pools, SimpleNamespace(crew=self.crew, owner=int))

    def stop(self, pid: int) -> RemoteStop:
        return RemoteStop(Process(pid, 0), OPENER, DEFAULT, self._pools, lambda: None)

    async def begin(self, pid: int) -> tuple[RemoteStop, Channel, int]:
        """A stop, the worker that it has, and its number."""
        stop = self.stop(pid)
        await stop.begin(0.0)
        for channel in self.workers.channels:
            try:
                message: Any = channel.receive(0.01)
            except TimeoutError:
                continue
            if message is None:  # that worker has ended
                continue
            assert isinstance(message, say.Take)
            return stop, channel, message.number
        raise AssertionError("no worker was asked")

    async def let_go(self, stop: RemoteStop, channel: Channel, late: tuple[int, ...] = ()) -> bool:
        """Returns whether threads may be late."""
        stop.let_go()
        message = channel.receive(1)
        assert isinstance(message, say.Release)
        channel.send(say.Released(late, frozenset(), is_busy=not late, has_child=False))
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


@contextmanager
def at_most_files(more: int) -> Iterator[None]:
    """This process can open so many more files."""
    gc.collect()  # closes what earlier tests have left open
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    os.close(free)
    taken = {int(name) for name in os.listdir("/proc/self/fd")} - {free}
    numbers = (number for number in range(hard) if number not in taken)
    limit = next(number for index, number in enumerate(numbers) if index == more)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("more", range(5))
def test_without_descriptors_a_stop_does_not_begin_and_leaves_no_worker_that_waits(
    more: int,
) -> None:
    """The idle worker is taken, so the next stop needs a socket; each needs a page."""

    async def main() -> None:
        async with mounted() as mount:
            await mount.begin(1)
            stop = mount.stop(7)
            with at_most_files(more):
                try:
                    await stop.begin(0.0)
                except ProcessError as error:
                    assert (error.reason, error.errno) == (Reason.NO_FILES, errno.ENFILE)
                    stop.let_go()
                    await stop.untraced()
                else:
                    assert more > 2
            await trio.testing.wait_all_tasks_blocked(0.01)
            for channel in mount.workers.channels[1:]:
                heard = channel.receive(1)
                assert heard is None or heard.process.pid == 7
            again, channel, _ = await mount.begin(7)
            await mount.let_go(again, channel)

    trio.run(main)


def test_a_worker_that_cannot_be_told_of_its_stop_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many descriptors are on the way in sockets (unix(7))."""

    def refused(link: crews.Link, message: object) -> None:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    async def main() -> None:
        async with mounted() as mount:
            stop = mount.stop(7)
            with monkeypatch.context() as patch, pytest.raises(ProcessError) as caught:
                patch.setattr(crews.Link, "say", refused)
                await stop.begin(0.0)
            assert caught.value.reason is Reason.NO_FILES
            stop.let_go()
            await stop.untraced()
            assert mount.workers.channels[0].receive(1) is None
            again, channel, _ = await mount.begin(7)
            await mount.let_go(again, channel)

    trio.run(main)


def test_files_that_we_cannot_receive_are_no_files_and_not_a_worker_that_was_killed() -> None:
    async def main() -> None:
        async with mounted() as mount:
            stop, channel, _ = await mount.begin(7)
            page = new_page()
            with at_most_files(0):
                channel.send(page)  # any message with a file
                await stop.untraced()
            with pytest.raises(ProcessError) as caught:
                await stop.core(MountPolicy(), HoldProcess())
            assert caught.value.reason is Reason.NO_FILES
            assert channel.receive(1) is None

    trio.run(main)


def test_a_stop_waits_while_the_zygote_is_busy() -> None:
    """A burst of opens may be faster than it forks."""

    async def main() -> None:
        async with mounted() as mount:
            await mount.begin(1)
            mount.workers.fill()
            stops = [mount.stop(pid) for pid in range(7, 10)]
            async with trio.open_nursery() as nursery:
                for stop in stops:
                    nursery.start_soon(stop.begin, 0.0)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(mount.workers.channels) == 1
                mount.workers.drain()
            asked = [channel.receive(1).process.pid for channel in mount.workers.channels[1:]]
            assert sorted(asked) == [7, 8, 9]

    trio.run(main)


def test_a_stop_that_is_let_go_while_it_waits_for_a_worker_begins_nothing() -> None:
    async def main() -> None:
        async with mounted() as mount:
            await mount.begin(1)
            mount.workers.fill()
            stop = mount.stop(7)

            async def begin() -> None:
                with pytest.raises(ProcessError) as caught:
                    await stop.begin(0.0)
                assert caught.value.reason is Reason.LET_GO

            async with trio.open_nursery() as nursery:
                nursery.start_soon(begin)
                await trio.testing.wait_all_tasks_blocked(0.01)
                stop.let_go()
                await stop.untraced()
                mount.workers.drain()
            assert mount.workers.channels[1].receive(1) is None

    trio.run(main)


def test_a_zygote_that_never_answers_is_an_error() -> None:
    async def main() -> None:
        async with mounted() as mount:
            await mount.begin(1)
            mount.workers.fill()
            with pytest.raises(ProcessError) as caught, tuned(Tuning(take_timeout=0.01)):
                await mount.stop(7).begin(0.0)
            assert caught.value.reason is Reason.NO_WORKER

    trio.run(main)


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


async def let_go_at_work(mount: Mount, nursery: trio.Nursery) -> Channel:
    """Let a stop of process 7 go while its worker makes a core, for which a task of `nursery`
    waits: it must hear that there is none."""
    stop, channel, _ = await mount.begin(7)

    async def ask_in_vain() -> None:
        with trio.fail_after(10), pytest.raises(ProcessError) as caught:
            await stop.core(MountPolicy(), HoldProcess())
        assert caught.value.reason is Reason.LET_GO

    nursery.start_soon(ask_in_vain)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert isinstance(channel.receive(1), say.MakeCore)
    await mount.let_go(stop, channel)
    return channel


def test_who_waits_for_a_core_hears_when_the_worker_goes_on_with_another_stop() -> None:
    """A look and a stop of one process may follow each other at once."""

    async def main() -> None:
        async with mounted() as mount, trio.open_nursery() as nursery:
            channel = await let_go_at_work(mount, nursery)
            _, same, _ = await mount.begin(7)
            assert same is channel

    trio.run(main)


def test_who_waits_for_a_core_hears_when_the_worker_has_to_end(
    tune: Callable[[Tuning], None],
) -> None:
    tune(Tuning(most_waiting=0))

    async def main() -> None:
        async with mounted() as mount, trio.open_nursery() as nursery:
            channel = await let_go_at_work(mount, nursery)
            assert channel.receive(1) is None

    trio.run(main)


def test_workers_may_come_while_a_thread_asks_who_is_one() -> None:
    """The questions at the door run in threads."""

    async def main() -> None:
        async with mounted() as mount:
            await mount.begin(7)
            await mount.begin(8)
            assert Asker(mount.crew, mount.nursery) not in mount.crew

    trio.run(main)


def test_all_workers_with_late_threads_count(tune: Callable[[Tuning], None]) -> None:
    """More stops of one user may end at once than there may be workers that wait for a user."""
    tune(Tuning(most_waiting=FEW))

    async def main() -> None:
        async with mounted() as mount:
            begun = [await mount.begin(pid) for pid in range(2 * FEW)]
            for stop, *_ in begun:
                stop.let_go()
            for _, channel, _ in begun:
                assert channel.receive(1) == say.Release(may_be_late=True)
            for stop, channel, _ in begun:
                channel.send(say.Released((1,), frozenset(), is_busy=False, has_child=False))
                await stop.untraced()
            for _, channel, number in begun[:FEW]:
                channel.send(say.Idle(number, may_go_on=True))
            await trio.testing.wait_all_tasks_blocked(0.01)
            stop, channel, _ = await mount.begin(2 * FEW)
            assert not await mount.let_go(stop, channel)

    trio.run(main)


@pytest.mark.parametrize("late", [(), (1,)], ids=["nobody is late", "one thread is late"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_no_worker_is_lost_of_two_stops_of_one_process(
    order: tuple[int, int], late: tuple[int, ...]
) -> None:
    """A look and a stop of one process may end together."""

    async def main() -> None:
        async with mounted() as mount:
            begun = [await mount.begin(7), await mount.begin(7)]
            for number in order:
                stop, channel, _ = begun[number]
                await mount.let_go(stop, channel, late if number else ())
            for number in order:
                _, channel, stop_number = begun[number]
                if not (late and number):
                    channel.send(say.Idle(stop_number, may_go_on=False))
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    assert channel.receive(1) is None  # the server has ended it
            if late:
                _, channel, _ = await mount.begin(7)
                assert channel is begun[1][1]  # the one that waits for the thread
            else:
                assert len(mount.workers.channels) == 2

    trio.run(main)


def test_each_of_two_workers_of_one_process_that_wait_counts_once(
    tune: Callable[[Tuning], None],
) -> None:
    tune(Tuning(most_waiting=2))

    async def main() -> None:
        async with mounted() as mount:
            for _ in range(3):
                begun = [await mount.begin(7), await mount.begin(7)]
                for stop, channel, _ in begun:
                    assert await mount.let_go(stop, channel)
                for _, channel, number in begun:
                    channel.send(say.Idle(number, may_go_on=True))
                await trio.testing.wait_all_tasks_blocked(0.01)

    trio.run(main)

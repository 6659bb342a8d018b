"""One stop of a mount with several cores, without FUSE."""

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from gcorefs.core import Core
from gcorefs.errors import Refusal
from gcorefs.hold import spool
from gcorefs.hold.copied import HoldCopy
from gcorefs.hold.copy import Copy
from gcorefs.hold.holder import Holder
from gcorefs.hold.room import Room
from gcorefs.mount.cores import Handle, SharedCore
from gcorefs.mount.crew import Crew
from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.mount.limits import Limits
from gcorefs.mount.options import MountPolicy, Options
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.mount.stops import SharedStop
from gcorefs.process.access import Opener
from gcorefs.process.admission import find
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.tuning import Tuning
from gcorefs.worker import messages as say
from gcorefs.worker.zygote import Zygote
from tests.conftest import Target
from tests.live.accounts import assert_free

Spawn = Callable[..., Target]

KERNEL, COPY = MountPolicy(memory="kernel"), MountPolicy(hold="copy")
OPENER = Opener(pid=os.getpid(), uid=0, gid=0, groups=(), capabilities=(1 << 41) - 1)


@asynccontextmanager
async def stopping(target: Target, *policies: MountPolicy) -> AsyncIterator[SharedStop]:
    """A stop that runs, and has begun cores with these policies."""
    options = Options()
    limits = Limits(options)
    zygote = Zygote()
    crew = Crew(zygote)
    stop = SharedStop(find(target.pid), OPENER, policies[0], options, Pools(limits, crew), limits)
    for policy in policies:
        stop.core(policy, OPENER)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            crew.start(nursery)
            nursery.start_soon(stop.run)
            yield stop
            stop.let_go()
            await stop.ending.finished()
            nursery.cancel_scope.cancel()
    zygote.close()
    assert_free(target.pid)


async def whole(core: SharedCore) -> bytes:
    handle = core.join(OPENER, nonblocking=False)
    data = b""
    while piece := await core.bytes.read(handle, len(data), 1 << 20):
        data += bytes(piece)
    core.leave(handle, 0.0)
    return data


async def opened(core: SharedCore) -> Handle:
    """A handle of a core that is ready."""
    handle = core.join(OPENER, nonblocking=False)
    assert bytes(await core.bytes.read(handle, 0, 4)) == b"\x7fELF"
    return handle


@pytest.mark.parametrize("is_later", [False, True], ids=["at once", "later"])
async def test_two_policies_share_a_stop(spawn: Spawn, is_later: bool) -> None:
    target = spawn("threads", 3)
    async with stopping(target, MountPolicy(), *[] if is_later else [KERNEL]) as stop:
        first = stop.core(MountPolicy(), OPENER)
        keeping = await opened(first)
        second = stop.core(KERNEL, OPENER)
        assert second is stop.core(KERNEL, OPENER) is not first
        data = await whole(second)
        assert b'"memory":"kernel"' in data
        assert (second.size, stop.is_over) == (len(data), False)  # the first is still open
        assert target.state_letters() == {"t"}
        first.leave(keeping, 0.0)
        assert stop.is_over


async def test_a_core_that_is_begun_while_the_process_is_being_stopped_is_made(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 1)
    begin = RemoteStop.begin
    cores = []

    async def begin_two(remote: RemoteStop, max_stop: float) -> None:
        await begin(remote, max_stop)
        cores.append(stop.core(KERNEL, OPENER))

    monkeypatch.setattr(RemoteStop, "begin", begin_two)
    async with stopping(target, MountPolicy()) as stop:
        keeping = await opened(stop.core(MountPolicy(), OPENER))
        (second,) = cores
        assert b'"memory":"kernel"' in await whole(second)
        keeping.core.leave(keeping, 0.0)


async def test_a_core_that_nobody_wants_fails_when_the_process_runs_on(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else somebody joins it, and waits for a core that nobody makes any more."""
    target = spawn("threads", 1)
    begin = RemoteStop.begin
    may_go_on = threading.Event()
    cores: list[SharedCore] = []

    async def begin_two(remote: RemoteStop, max_stop: float) -> None:
        await begin(remote, max_stop)
        second = stop.core(MountPolicy(hold="copy", memory="kernel"), OPENER)
        monkeypatch.setattr(second.holder, "prepare", lambda pid: may_go_on.wait(60))
        cores.append(second)

    monkeypatch.setattr(RemoteStop, "begin", begin_two)
    async with stopping(target, COPY) as stop:
        keeping = await opened(stop.core(COPY, OPENER))
        await stop.ending.untraced()  # it is copied
        (second,) = cores
        assert (second.is_ready, second.is_over, stop.is_over) == (True, True, False)
        assert len(await whole(keeping.core)) == keeping.core.size
        may_go_on.set()
        keeping.core.leave(keeping, 0.0)


async def test_a_disk_that_makes_no_room_is_a_process_that_is_held(
    spawn: Spawn, tune: Callable[[Tuning], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    asked = []

    def never(directory: str, disk: Room, memory: Room) -> Copy:
        asked.append(directory)
        answers.wait(60)
        return Copy(memory)

    monkeypatch.setattr(spool, "Spool", never)
    tune(Tuning(take_timeout=3.0))
    target = spawn("threads", 1)
    async with stopping(target, MountPolicy(hold="copy", spool="/disk")) as stop:
        (core,) = stop.cores.values()
        keeping = await opened(core)
        assert core.holder.not_copied == "there was no room for it in time"
        assert target.state_letters() == {"t"}
        answers.set()
        assert len(await whole(core)) == core.size
        assert (asked, core.holder.is_filled) == (["/disk"], False)
        core.leave(keeping, 0.0)


async def test_the_last_core_to_be_closed_lets_the_process_go(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    async with stopping(target, MountPolicy(), KERNEL) as stop:
        cores = [*stop.cores.values()]
        handles = [core.join(OPENER, nonblocking=False) for core in cores]
        for core, handle in zip(cores, handles, strict=True):
            await core.bytes.read(handle, 0, 1)
            assert not stop.is_over
            core.leave(handle, 0.0)
        assert stop.is_over
        await stop.ending.untraced()
        assert_free(target.pid)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_copy_lets_nobody_go_while_another_core_is_made(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The copy of one opener is complete before the core of another is made."""
    target = spawn("threads", 1)
    make = RemoteStop.core

    async def late(remote: RemoteStop, policy: MountPolicy, holder: Holder) -> Core:
        if policy != COPY:
            await first.bytes.settled()
            if fails:
                raise ProcessError(Reason.STUCK, target.pid)
        return await make(remote, policy, holder)

    monkeypatch.setattr(RemoteStop, "core", late)
    async with stopping(target, COPY, KERNEL) as stop:
        first, second = stop.cores.values()
        handle = first.join(OPENER, nonblocking=False)
        if fails:
            with pytest.raises(ProcessError) as caught:
                await whole(second)
            assert caught.value.reason is Reason.STUCK
            await stop.ending.untraced()
            assert_free(target.pid)
        else:
            keeping = await opened(second)
            assert target.state_letters() == {"t"}
            assert len(await whole(second)) == second.size
            second.leave(keeping, 0.0)
        assert first.holder.is_filled
        first.leave(handle, 0.0)


async def test_a_copy_beside_a_core_that_is_read_live_lets_nobody_go(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    async with stopping(target, MountPolicy(), COPY) as stop:
        live, copied = stop.cores.values()
        handles = [core.join(OPENER, nonblocking=False) for core in (live, copied)]
        for core, handle in zip((live, copied), handles, strict=True):
            assert core.size is None
            await core.bytes.read(handle, 0, 1)
        assert copied.size is not None
        await copied.bytes.read(handles[1], copied.size - 1, 1)  # it waits for the copy
        assert copied.holder.was_filled
        assert (stop.ending.is_tracing, target.state_letters()) == (True, {"t"})


async def test_a_core_that_cannot_be_made_does_not_end_the_others(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 1)
    async with stopping(target, MountPolicy()) as stop:
        (first,) = stop.cores.values()
        keeping = await opened(first)

        def refuse(*_: object) -> None:
            raise RequestError(RequestReason.USER_MEMORY, target.pid)

        monkeypatch.setattr("gcorefs.mount.limits.Budget.take", refuse)
        second = stop.core(KERNEL, OPENER)
        handle = second.join(OPENER, nonblocking=False)
        with pytest.raises(Refusal) as caught:
            await second.bytes.read(handle, 0, 1)
        assert caught.value.reason is RequestReason.USER_MEMORY
        assert (second.is_over, first.is_over) == (True, False)
        assert bytes(await first.bytes.read(keeping, 0, 4)) == b"\x7fELF"


async def test_a_first_core_that_is_refused_does_not_end_the_others(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 1)
    make = RemoteStop.core
    is_asked = trio.Event()

    async def refuse_first(remote: RemoteStop, policy: MountPolicy, holder: Holder) -> Core:
        if policy == KERNEL:
            return await make(remote, policy, holder)
        await make(remote, policy, holder)
        await is_asked.wait()
        raise RequestError(RequestReason.USER_MEMORY, target.pid)

    monkeypatch.setattr(RemoteStop, "core", refuse_first)
    async with stopping(target, MountPolicy()) as stop:
        (first,) = stop.cores.values()
        handle = first.join(OPENER, nonblocking=False)
        second = stop.core(KERNEL, OPENER)
        keeping = second.join(OPENER, nonblocking=False)
        is_asked.set()
        with pytest.raises(Refusal) as caught:
            await first.bytes.read(handle, 0, 1)
        assert caught.value.reason is RequestReason.USER_MEMORY
        assert bytes(await second.bytes.read(keeping, 0, 4)) == b"\x7fELF"
        assert not stop.is_over
        second.leave(keeping, 0.0)  # the file of the first is still open
        assert stop.is_over


async def test_a_process_is_held_until_the_last_core_has_had_its_time(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    short = MountPolicy(max_stop=1.0)  # both must be open by then
    async with stopping(target, short, KERNEL) as stop:
        hasty, patient = stop.cores.values()
        handles = [await opened(core) for core in (hasty, patient)]
        await trio.sleep(1.2)
        assert not stop.is_over
        patient.leave(handles[1], 0.0)
        await stop.ending.finished()
        assert stop.why_over == "it was stopped for 1 s"


async def test_the_first_core_says_how_long_threads_have_to_stop(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    async with stopping(target, MountPolicy(stop_timeout=0.75), KERNEL) as stop:
        first, second = stop.cores.values()
        keeping = await opened(first)
        assert b'"stop_timeout":0.75' in await whole(second)
        first.leave(keeping, 0.0)


async def test_a_copy_that_finds_no_memory_does_not_hold_up_later_cores(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 1)
    async with stopping(target, MountPolicy()) as stop:
        (first,) = stop.cores.values()
        keeping = await opened(first)

        def refuse(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr("gcorefs.hold.copied.HoldCopy.fit", refuse)
        second = stop.core(COPY, OPENER)
        waiting = second.join(OPENER, nonblocking=False)
        with pytest.raises(ProcessError) as caught:
            await second.bytes.read(waiting, 0, 1)
        assert caught.value.reason is Reason.NO_MEMORY
        assert b'"memory":"kernel"' in await whole(stop.core(KERNEL, OPENER))
        assert bytes(await first.bytes.read(keeping, 0, 4)) == b"\x7fELF"


async def test_a_copy_that_comes_too_late_does_not_hold_up_later_cores(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker asks for a copy that nobody waits for any more."""
    target = spawn("threads", 1)
    begin, hear = RemoteStop.begin, RemoteStop.hear
    begun: list[RemoteStop] = []

    async def begin_and_tell(remote: RemoteStop, max_stop: float) -> None:
        begun.append(remote)
        await begin(remote, max_stop)

    monkeypatch.setattr(RemoteStop, "begin", begin_and_tell)
    async with stopping(target, MountPolicy()) as stop:
        (first,) = stop.cores.values()
        keeping = await opened(first)
        (asking,) = begun
        asked = trio.Event()
        late: list[tuple[RemoteStop, object]] = []

        def hear_late(remote: RemoteStop, message: object) -> None:
            if isinstance(message, say.Fit):
                late.append((remote, message))
                asked.set()
            else:
                hear(remote, message)

        monkeypatch.setattr(RemoteStop, "hear", hear_late)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asking.core, COPY, HoldCopy(lambda: Copy(Room(1 << 30))))
                await asked.wait()
                scope.cancel()
        monkeypatch.undo()
        for remote, message in late:
            remote.hear(message)
        assert b'"memory":"kernel"' in await whole(stop.core(KERNEL, OPENER))
        assert bytes(await first.bytes.read(keeping, 0, 4)) == b"\x7fELF"


async def test_an_open_of_a_copy_does_not_wait_for_a_tracer_that_hangs(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, tune: Callable[[Tuning], None]
) -> None:
    tune(Tuning(read_timeout=0.5))
    target = spawn("threads", 1)

    is_released = trio.Event()

    async def hang(_: RemoteStop) -> None:
        is_released.set()
        await trio.sleep_forever()

    async with stopping(target, COPY) as stop:
        with monkeypatch.context() as patch:
            patch.setattr(RemoteStop, "untraced", hang)
            (core,) = stop.cores.values()
            await opened(core)
            await is_released.wait()
            assert await core.is_joinable(OPENER)


async def test_a_core_that_was_still_to_be_made_is_told_that_the_process_was_let_go(
    spawn: Spawn,
) -> None:
    target = spawn("threads", 1)
    async with stopping(target, MountPolicy()) as stop:
        (first,) = stop.cores.values()
        await opened(first)
        second = stop.core(KERNEL, OPENER)
        waiting = second.join(OPENER, nonblocking=False)
        stop.let_go("somebody said so")
        await stop.ending.finished()
        with pytest.raises(ProcessError, match="somebody said so") as caught:
            await second.bytes.read(waiting, 0, 1)
        assert caught.value.reason is Reason.LET_GO


async def test_a_file_closed_before_the_hold_begins_counts_as_opened(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 1)
    settle = SharedCore.settle

    async def settle_and_leave(core: SharedCore, made: Core) -> None:
        await settle(core, made)
        core.leave(handle, 0.0)

    monkeypatch.setattr(SharedCore, "settle", settle_and_leave)
    async with stopping(target, MountPolicy()) as stop:
        (core,) = stop.cores.values()
        handle = core.join(OPENER, nonblocking=False)
        await stop.ending.finished()
        assert stop.why_over == ""

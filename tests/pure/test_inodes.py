"""One inode is one process and one stop: a number is never used again for other bytes."""

import errno
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyfuse3 import FUSEError

from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.inodes import Inode, Inodes, Listed
from gcorefs.mount.options import DEFAULT, MountPolicy

HIGHEST_PID = (1 << 22) - 1  # PID_MAX_LIMIT, include/linux/threads.h


@dataclass
class FakeStop:
    """A stop, with all that an inode uses."""

    is_over: bool = False
    is_open: bool = True
    is_past: bool = False


def look_up(inodes: Inodes, process: Process, stop: FakeStop | None = None) -> Inode:
    inode = inodes.show(DEFAULT).get(process)
    inodes.hold(inode)
    if stop is not None:
        inode.core = cast(SharedCore, stop)
    return inode


@pytest.fixture
def inodes() -> Inodes:
    return Inodes()


def test_a_process_has_one_inode(inodes: Inodes) -> None:
    first = look_up(inodes, Process(14, 100))
    assert look_up(inodes, Process(14, 100)) is first
    assert inodes[first.number] is first
    assert (first.lookups, first.process) == (2, Process(14, 100))


def test_two_processes_have_two_inodes(inodes: Inodes) -> None:
    numbers = {look_up(inodes, Process(pid, 100)).number for pid in (1, 2, HIGHEST_PID)}
    assert len(numbers) == 3


def test_a_later_process_of_the_same_pid_is_another_file(inodes: Inodes) -> None:
    before = look_up(inodes, Process(14, 100))
    after = look_up(inodes, Process(14, 200))
    assert after.number != before.number
    assert (before.process.start_time, after.process.start_time) == (100, 200)
    assert inodes[before.number] is before  # its handles read on
    assert inodes.show(DEFAULT).get(Process(14, 200)) is after


def test_forgetting_the_earlier_process_leaves_the_later_one(inodes: Inodes) -> None:
    before = look_up(inodes, Process(14, 100))
    after = look_up(inodes, Process(14, 200))
    inodes.forget(before.number, 1)
    assert inodes.show(DEFAULT).get(Process(14, 200)) is after
    with pytest.raises(KeyError):
        inodes[before.number]


@pytest.mark.parametrize(
    ("stop", "is_retired"),
    [
        (None, False),
        (FakeStop(is_over=False, is_open=True), False),
        (FakeStop(is_over=False, is_open=False), False),
        (FakeStop(is_over=True, is_open=False), False),
        (FakeStop(is_over=True, is_open=True), True),
        (FakeStop(is_over=False, is_open=True, is_past=True), True),
        (FakeStop(is_over=False, is_open=False, is_past=True), False),
    ],
)
def test_an_inode_retires_when_its_stop_is_over_and_handles_are_open(
    inodes: Inodes, stop: FakeStop | None, is_retired: bool
) -> None:
    inode = look_up(inodes, Process(14, 100), stop)
    assert inode.is_retired is is_retired
    again = inodes.show(DEFAULT).get(Process(14, 100))
    assert (again is inode) is not is_retired
    assert (again.number == inode.number) is not is_retired


def test_a_retired_inode_serves_its_handles_and_is_never_given_again(inodes: Inodes) -> None:
    process, stop = Process(14, 100), FakeStop()
    retired = look_up(inodes, process, stop)
    stop.is_over = True
    fresh = look_up(inodes, process)
    assert fresh.core is None
    assert inodes[retired.number] is retired
    stop.is_open = False  # its last handle is released: even so
    assert inodes.show(DEFAULT).get(process) is fresh
    inodes.forget(retired.number, 1)
    assert inodes.show(DEFAULT).get(process) is fresh


def test_as_many_look_ups_are_forgotten_as_there_were(inodes: Inodes) -> None:
    process = Process(14, 100)
    inode = look_up(inodes, process)
    for _ in range(4):
        look_up(inodes, process)
    inodes.forget(inode.number, 3)
    inodes.forget(inode.number, 1)
    assert inodes[inode.number].lookups == 1
    inodes.forget(inode.number, 1)
    with pytest.raises(KeyError):
        inodes[inode.number]


def test_a_forgotten_process_has_a_new_number_afterwards(inodes: Inodes) -> None:
    process = Process(14, 100)
    inode = look_up(inodes, process)
    inodes.forget(inode.number, 1)
    assert look_up(inodes, process).number != inode.number


def test_the_kernel_has_no_inode_that_it_never_held(inodes: Inodes) -> None:
    inode = inodes.show(DEFAULT).get(Process(14, 100))
    with pytest.raises(KeyError):
        inodes[inode.number]
    with pytest.raises(KeyError):
        inodes.forget(inode.number, 1)


def test_an_inode_forgotten_while_a_reply_is_made_is_still_the_process_s_only_one(
    inodes: Inodes,
) -> None:
    # A look-up waits for the size, and a FORGET may come meanwhile.
    process = Process(14, 100)
    inode = look_up(inodes, process)
    with inodes.show(DEFAULT).held(process) as reference:
        assert reference.inode is inode
        inodes.forget(inode.number, 1)
        assert inodes.show(DEFAULT).get(process) is inode
        reference.keep()
    assert inodes[inode.number] is inode
    assert inode.lookups == 1


def test_a_reply_that_is_not_sent_leaves_no_reference(inodes: Inodes) -> None:
    with inodes.show(DEFAULT).held(Process(15, 100)) as reference:
        number = reference.inode.number
    with pytest.raises(KeyError):
        inodes[number]


def test_what_was_listed_is_the_process_that_is_then_looked_up(inodes: Inodes) -> None:
    listed = inodes.show(DEFAULT).listed(14)
    inodes.show(DEFAULT).seek(14)
    inode = look_up(inodes, Process(14, 100))
    assert inode.number == listed.number
    assert inode.lookups == 2
    assert inodes[inode.number] is inode
    assert inodes.show(DEFAULT).listed(14) is inode  # and is listed under it from then on
    later = look_up(inodes, Process(14, 200))
    assert later.number != inode.number
    assert inodes[inode.number].process == Process(14, 100)


def test_what_was_only_listed_is_no_file_yet(inodes: Inodes) -> None:
    listed = inodes.show(DEFAULT).listed(14)
    assert inodes.show(DEFAULT).listed(14) is listed
    with pytest.raises(FUSEError) as caught:
        inodes[listed.number]
    assert caught.value.errno == errno.ESTALE
    inodes.forget(listed.number, 2)
    with pytest.raises(KeyError):
        inodes[listed.number]
    assert look_up(inodes, Process(14, 100)).number != listed.number


def test_a_listing_gives_no_number_whose_look_up_is_under_way(inodes: Inodes) -> None:
    # Or the kernel could take its attributes, which are none, for newer than the look-up's.
    before = inodes.show(DEFAULT).listed(14)
    inodes.show(DEFAULT).seek(14)
    meanwhile = inodes.show(DEFAULT).listed(14)
    assert meanwhile.number != before.number
    assert look_up(inodes, Process(14, 100)).number == meanwhile.number
    inodes.forget(before.number, 1)
    assert inodes.show(DEFAULT).listed(14).number == meanwhile.number


def test_a_listing_gives_no_retired_number(inodes: Inodes) -> None:
    process = Process(14, 100)
    retired = look_up(inodes, process, FakeStop(is_over=True))
    listed = inodes.show(DEFAULT).listed(14)
    assert listed.number != retired.number
    fresh = look_up(inodes, process)
    assert (fresh.number, fresh.core) == (listed.number, None)
    assert inodes[retired.number] is retired


steps = st.one_of(
    st.tuples(st.just("list"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("seek"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("look up"), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.just("forget"), st.integers(0, 50), st.integers(1, 3)),
    st.tuples(st.just("open"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("let go"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("close"), st.integers(0, 50), st.just(0)),
)


@given(st.lists(steps, max_size=60))
def test_a_number_stands_for_one_process_and_one_stop_for_ever(
    actions: list[tuple[str, int, int]],
) -> None:
    inodes = Inodes()
    held: dict[int, Inode | Listed] = {}
    meaning: dict[int, Process] = {}
    gone: set[int] = set()
    for action, first, second in actions:
        if action == "list":
            found = inodes.show(DEFAULT).listed(first)
            assert found.number not in gone
            assert not found.is_retired
            assert isinstance(found, Inode) or found.number not in meaning
            assert found.pid == first
            held[found.number] = found
            continue
        if action == "seek":
            inodes.show(DEFAULT).seek(first)
            continue
        if action == "look up":
            process = Process(first, second)
            inode = look_up(inodes, process)
            assert inode.number not in gone
            assert not inode.is_retired
            assert meaning.setdefault(inode.number, process) == inode.process == process
            held[inode.number] = inode
            continue
        if not held:
            continue
        known = held[sorted(held)[first % len(held)]]
        if action == "forget":
            count = min(second, known.lookups)
            inodes.forget(known.number, count)
            if not known.lookups:
                del held[known.number]
                gone.add(known.number)
            continue
        if isinstance(known, Listed):
            continue
        inode = known
        if action == "open":
            inode.core = cast(SharedCore, FakeStop()) if not inode.is_retired else inode.core
        elif inode.core is not None:
            stop = cast(FakeStop, inode.core)
            stop.is_over = True
            stop.is_open = action == "let go"
    for number, known in held.items():
        if isinstance(known, Inode):
            assert inodes[number] is known
        inodes.forget(number, known.lookups)
        with pytest.raises(KeyError):
            inodes[number]


@given(st.integers(1, HIGHEST_PID), st.integers(1, HIGHEST_PID))
def test_numbers_leave_room_for_the_root_and_fit_in_64_bits(one: int, other: int) -> None:
    inodes = Inodes()
    numbers = [look_up(inodes, Process(pid, 1)).number for pid in (one, other)]
    assert all(1 < number < 1 << 64 for number in numbers)
    assert (numbers[0] == numbers[1]) is (one == other)


def test_outsiders_have_an_inode_of_their_own_that_no_stop_is_shown_under(inodes: Inodes) -> None:
    process = Process(14, 100)
    mine = look_up(inodes, process, FakeStop())
    assert inodes.show(DEFAULT).core_of(process) is mine.core
    assert inodes.show(DEFAULT).core_of(Process(14, 200)) is None
    with inodes.show(DEFAULT).held(process, is_outsider=True) as reference:
        theirs = reference.inode
        reference.keep()
    assert theirs.number != mine.number
    assert (theirs.is_outsiders, theirs.core, theirs.process) == (True, None, process)
    assert inodes[theirs.number] is theirs
    assert inodes.show(DEFAULT).get(process) is mine
    with inodes.show(DEFAULT).held(process, is_outsider=True) as reference:
        assert reference.inode is theirs
    assert theirs.lookups == 1
    with inodes.show(DEFAULT).held(Process(14, 200), is_outsider=True) as reference:
        assert reference.inode is not theirs
    inodes.forget(theirs.number, 1)
    with pytest.raises(KeyError):
        inodes[theirs.number]


def test_a_stop_that_is_over_is_not_shown(inodes: Inodes) -> None:
    process = Process(14, 100)
    assert inodes.show(DEFAULT).core_of(process) is None
    look_up(inodes, process, FakeStop(is_over=True))
    assert inodes.show(DEFAULT).core_of(process) is None


def test_a_process_has_an_inode_for_each_policy(inodes: Inodes) -> None:
    process, other = Process(14, 100), MountPolicy(memory="kernel")
    view, others = inodes.show(DEFAULT), inodes.show(other)
    plain = view.get(process)
    inodes.hold(plain)
    with others.held(process) as reference:
        special = reference.inode
        reference.keep()
    assert plain.number != special.number
    assert (plain.policy, special.policy) == (DEFAULT, other)
    assert view.get(process) is plain
    assert others.get(process) is special
    assert view.listed(14) is plain
    assert others.listed(14) is special
    special.core = cast(SharedCore, FakeStop())
    assert (view.core_of(process), others.core_of(process)) == (None, special.core)
    inodes.forget(special.number, 2)
    assert others.get(process) is not special
    assert view.get(process) is plain


def test_what_one_view_lists_is_looked_up_in_it_alone(inodes: Inodes) -> None:
    process, other = Process(14, 100), MountPolicy(memory="kernel")
    view, others = inodes.show(DEFAULT), inodes.show(other)
    listed, theirs = view.listed(14), others.listed(14)
    assert listed.number != theirs.number
    assert others.get(process).number == theirs.number
    assert view.listed(14) is listed
    inodes.forget(theirs.number, 1)
    assert view.get(process).number == listed.number


def test_a_view_that_no_directory_shows_keeps_only_inodes_with_a_core(inodes: Inodes) -> None:
    other = MountPolicy(memory="kernel")
    first, second = inodes.show(other), inodes.show(other)
    assert first is second
    with first.held(Process(14, 100)) as reference, first.held(Process(15, 100)) as opened:
        reference.keep()
        opened.keep()
    listed = first.listed(16)
    outsider = first.outsiders(Process(15, 100))
    opened.inode.core = cast(SharedCore, FakeStop())
    inodes.hide(first)
    assert inodes[reference.inode.number] is reference.inode  # a directory still shows it
    inodes.hide(first)
    for number in (reference.inode.number, listed.number, outsider.number):
        with pytest.raises(KeyError):
            inodes[number]
    assert inodes[opened.inode.number] is opened.inode
    again = inodes.show(other)
    assert again.get(Process(15, 100)) is opened.inode
    assert again.get(Process(14, 100)) is not reference.inode
    again.take_back(listed)  # nobody knows it any more: no error
    opened.inode.core = None
    inodes.hide(again)
    with pytest.raises(KeyError):
        inodes[opened.inode.number]
    with pytest.raises(FUSEError) as caught, again.held(Process(14, 100)):
        pass  # a look-up that began before
    assert caught.value.errno == errno.ESTALE
    assert inodes.view(other) is not again


def test_a_view_that_no_directory_shows_lists_nothing(inodes: Inodes) -> None:
    """A descriptor of a forgotten directory can be read on: nobody counts those names."""
    view = inodes.show(MountPolicy(memory="kernel"))
    with view.held(Process(14, 100)) as reference:
        reference.keep()
    reference.inode.core = cast(SharedCore, FakeStop())
    view.listed(15)
    inodes.hide(view)
    with pytest.raises(FUSEError) as caught:
        view.listed(16)
    assert (caught.value.errno, view.size) == (errno.ESTALE, 1)

"""The phases of a stop: every permitted step, and no other."""

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.lifecycle import NEXT, Lifecycle, Phase

ROADS: dict[Phase, list[Phase]] = {
    Phase.NEW: [],
    Phase.STOPPING: [Phase.STOPPING],
    Phase.HELD: [Phase.STOPPING, Phase.HELD],
    Phase.DIED: [Phase.STOPPING, Phase.HELD, Phase.DIED],
    Phase.COPIED: [Phase.STOPPING, Phase.HELD, Phase.COPIED],
    Phase.PAST: [Phase.STOPPING, Phase.HELD, Phase.COPIED, Phase.PAST],
    Phase.LET_GO: [Phase.LET_GO],
    Phase.ENDED: [Phase.LET_GO, Phase.ENDED],
}
"""One way to reach each phase."""

STEPS = {
    (Phase.NEW, Phase.STOPPING),
    (Phase.NEW, Phase.LET_GO),
    (Phase.STOPPING, Phase.HELD),
    (Phase.STOPPING, Phase.DIED),
    (Phase.STOPPING, Phase.LET_GO),
    (Phase.HELD, Phase.COPIED),
    (Phase.HELD, Phase.DIED),
    (Phase.HELD, Phase.LET_GO),
    (Phase.DIED, Phase.COPIED),
    (Phase.DIED, Phase.LET_GO),
    (Phase.COPIED, Phase.PAST),
    (Phase.COPIED, Phase.LET_GO),
    (Phase.PAST, Phase.LET_GO),
    (Phase.LET_GO, Phase.ENDED),
}


def at(phase: Phase) -> Lifecycle:
    life = Lifecycle()
    for step in ROADS[phase]:
        assert life.advance(step)
    assert life.phase is phase
    return life


@pytest.mark.parametrize(("phase", "following"), [*itertools.product(Phase, Phase)])
def test_a_step_is_taken_or_refused(phase: Phase, following: Phase) -> None:
    life = at(phase)
    is_step = (phase, following) in STEPS
    assert life.advance(following) is is_step
    assert life.phase is (following if is_step else phase)


def test_the_table_has_every_phase() -> None:
    assert NEXT.keys() == set(Phase)


@given(st.lists(st.sampled_from(Phase)))
def test_no_phase_comes_back(steps: list[Phase]) -> None:
    life = Lifecycle()
    passed = [Phase.NEW]
    for step in steps:
        if life.advance(step):
            assert step not in passed
            passed.append(step)
    assert [phase for phase in Phase if life.has_been(phase)] == sorted(
        passed, key=list(Phase).index
    )
    assert life.is_dead is (Phase.DIED in passed and Phase.COPIED not in passed)
    assert life.is_let_go is (Phase.LET_GO in passed)


@pytest.mark.parametrize("phase", [*Phase])
def test_memory_is_read_while_the_process_stands_still(phase: Phase) -> None:
    assert at(phase).stands_still is (phase in (Phase.STOPPING, Phase.HELD))


def test_of_many_threads_one_takes_a_step() -> None:
    life = Lifecycle()
    barrier, taken = threading.Barrier(8), []

    def step() -> None:
        barrier.wait()
        taken.append(life.advance(Phase.STOPPING))

    threads = [threading.Thread(target=step) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]

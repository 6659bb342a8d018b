"""How long a process will probably stand still: what makes it longer, and what does not."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.estimate import Counters
from gcorefs.forecast import stop_seconds
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.look import Look
from gcorefs.policy import Policy

GIB = 1 << 30
SEEN = Look(
    process=Process(1, 0), uid=0, gid=0, tid=1, mask=0x33, counters=Counters(1, GIB, GIB, 0),
    resident=GIB, shareable=0, at=0.0,
)  # fmt: skip


def seconds(policy: str, size: int = GIB, threads: int = 1) -> float:
    counters = SEEN.counters._replace(threads=threads)
    return stop_seconds(replace(SEEN, counters=counters), size, Policy.of(policy))


@given(st.integers(0, 1 << 40), st.integers(1, 100_000))
def test_more_memory_and_more_threads_take_longer(size: int, threads: int) -> None:
    assert seconds("hold=stop", size, threads) < seconds("hold=stop", size + GIB, threads)
    assert seconds("hold=stop", size, threads) < seconds("hold=stop", size, threads + 100)
    assert seconds("hold=copy", size, threads) <= seconds("hold=stop", size, threads)


@given(st.integers(0, 1 << 40))
def test_what_is_not_copied_in_the_stop_costs_nothing(size: int) -> None:
    for policy in ("hold=none", "hold=precopy", "stop=each,hold=stop"):
        assert seconds(policy, size) == seconds(policy, 0)


def test_a_fork_takes_less_time_than_a_copy() -> None:
    assert seconds("hold=fork", 0) < seconds("hold=fork") < seconds("hold=copy")


def test_who_is_not_stopped_stands_still_for_no_time() -> None:
    assert seconds("@glance") == 0.0

"""Work that is done later has the same result as work that is done at once."""

import contextlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import pytest

from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.worker_threads import Postponed, Worker, ahead
from tests import own_tasks


def test_postponed_work_is_done_in_order_and_once() -> None:
    later = Postponed()
    done: list[int] = []

    def work(number: int) -> Callable[[], bytes]:
        def do() -> bytes:
            done.append(number)
            return bytes([number])

        return do

    results = [later.promise(work(number)) for number in range(5)]
    assert done == []
    later.do()
    later.do()
    assert done == [0, 1, 2, 3, 4]
    assert [result() for result in results] == [bytes([number]) for number in range(5)]


def test_a_reader_that_asks_early_waits() -> None:
    later = Postponed()
    result = later.promise(lambda: b"made")
    found: list[bytes] = []
    asker = threading.Thread(target=lambda: found.append(result()))
    asker.start()
    assert found == []
    later.do()
    asker.join(10)
    assert found == [b"made"]


def test_a_failure_is_raised_for_its_reader_and_all_later_ones() -> None:
    later = Postponed()

    def fail() -> bytes:
        raise OSError("gone")

    first, second, third = (
        later.promise(lambda: b"made"),
        later.promise(fail),
        later.promise(lambda: b"never"),
    )
    with pytest.raises(OSError, match="gone"):
        later.do()
    assert first() == b"made"
    for result in (second, third):
        with pytest.raises(OSError, match="gone"):
            result()


def test_a_worker_does_all_in_one_thread_until_it_is_closed() -> None:
    worker = Worker("by-name")
    tid = worker.promise(threading.get_native_id)()
    assert own_tasks.names().count("by-name") == 1
    assert worker.submit(threading.get_native_id).result(10) == tid
    last = worker.promise(threading.get_native_id)
    worker.join(10)
    assert last() == tid
    assert "by-name" not in own_tasks.names()
    assert worker.promise(own_tasks.names)().count("by-name") == 1
    worker.close()
    worker.close()


def test_a_worker_hands_over_what_went_wrong() -> None:
    worker = Worker()
    with pytest.raises(ZeroDivisionError):
        worker.promise(lambda: 1 // 0)()
    assert worker.submit(divmod, 7, 2).result(10) == (3, 1)
    worker.close()


class Heavy:
    """An object that an error should not keep alive."""


def fail() -> None:
    raise OSError("gone")


@pytest.mark.usefixtures("nothing_is_collected")
def test_an_error_that_was_handed_over_keeps_nothing() -> None:
    kept = Heavy()
    seen = weakref.ref(kept)
    for ask in (_ask_a_worker, _ask_what_was_postponed, _ask_patiently):
        with contextlib.suppress(OSError):
            ask(kept)
    del kept
    assert seen() is None


def _ask_a_worker(_: Heavy) -> None:
    worker = Worker()
    try:
        worker.promise(fail)()
    finally:
        worker.close()


def _ask_what_was_postponed(_: Heavy) -> None:
    later = Postponed()
    later.promise(lambda: b"made")
    later.promise(lambda: bytes(1 // 0))
    with contextlib.suppress(ZeroDivisionError):
        later.do()


def _ask_patiently(_: Heavy) -> None:
    ask_each([("nobody", lambda _: fail())], lambda _: None)


def test_what_is_read_ahead_comes_in_order() -> None:
    for last in range(3):
        numbers = partial(next, count())
        assert [*ahead("reader", numbers, last.__eq__)] == [*range(last + 1)]


def test_an_error_of_what_is_read_ahead_comes_when_its_turn_comes() -> None:
    found = ahead("reader", [1, 0].pop, lambda _: False)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(IndexError):
        next(found)


def test_whoever_stops_early_waits_for_what_is_read_ahead() -> None:
    done: list[int | str] = []
    has_begun, may_go_on = threading.Event(), threading.Event()

    def more() -> int:
        if done:
            has_begun.set()
            may_go_on.wait()
        done.append(len(done))
        return 0

    found = ahead("reader", more, lambda _: False)
    next(found)
    has_begun.wait()
    with ThreadPoolExecutor() as pool:
        closed = pool.submit(found.close)
        may_go_on.set()
        closed.result()
    done.append("closed")
    assert done.index("closed") == len(done) - 1
    assert done[:2] == [0, 1]


def test_only_a_few_are_read_ahead() -> None:
    read: list[int] = []
    a_few = threading.Event()

    def more() -> int:
        read.append(len(read))
        if len(read) == 3:
            a_few.set()
        return read[-1]

    found = ahead("reader", more, lambda _: False)
    assert next(found) == 0
    a_few.wait()
    found.close()
    assert read == [0, 1, 2]

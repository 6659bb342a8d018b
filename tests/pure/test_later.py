"""Work that is done later has the result that it would have had at once."""

import threading
from collections.abc import Callable

import pytest

from gcorefs.process.later import Meanwhile, Postponed


def test_postponed_work_is_done_in_order_and_once() -> None:
    later = Postponed()
    done: list[int] = []

    def work(number: int) -> Callable[[], bytes]:
        def do() -> bytes:
            done.append(number)
            return bytes([number])

        return do

    results = [later(work(number)) for number in range(5)]
    assert done == []
    later.do()
    later.do()
    assert done == [0, 1, 2, 3, 4]
    assert [result() for result in results] == [bytes([number]) for number in range(5)]


def test_who_asks_before_it_is_done_waits() -> None:
    later = Postponed()
    result = later(lambda: b"made")
    found: list[bytes] = []
    asker = threading.Thread(target=lambda: found.append(result()))
    asker.start()
    assert found == []
    later.do()
    asker.join(10)
    assert found == [b"made"]


def test_what_cannot_be_done_is_said_to_whoever_asks_for_it_or_what_comes_after() -> None:
    later = Postponed()

    def fail() -> bytes:
        raise OSError("gone")

    first, second, third = later(lambda: b"made"), later(fail), later(lambda: b"never")
    with pytest.raises(OSError, match="gone"):
        later.do()
    assert first() == b"made"
    for result in (second, third):
        with pytest.raises(OSError, match="gone"):
            result()


def test_what_is_done_meanwhile_is_done_in_another_thread_and_ends_with_it() -> None:
    meanwhile = Meanwhile()
    thread = meanwhile(threading.current_thread)()
    assert thread is not threading.current_thread()
    assert meanwhile(threading.current_thread)() is thread
    last = meanwhile(threading.current_thread)
    meanwhile.close()
    thread.join(10)
    assert last() is thread
    assert not thread.is_alive()
    assert meanwhile(threading.current_thread)() is not thread
    meanwhile.close()

"""A thread whose system call a supervisor answers (seccomp_unotify(2)).

A stop ends its wait, and the call starts again: the supervisor gets the call twice, and does twice
what it asks for.  Nothing can repair that from outside: the kernel withdraws the first notification
before the tracer hears of the stop (kernel/seccomp.c, seccomp_do_user_notification).  A filter that
waits killably has no such effect.
"""

from collections.abc import Callable

from tests.conftest import Target
from tests.live.accounts import held
from tests.mounted.conftest import eventually, is_free


def test_a_call_that_a_supervisor_is_about_to_answer_is_asked_for_again(
    spawn: Callable[..., Target],
) -> None:
    target = spawn("notified", "plain")
    assert target.line() == {"effects": 1}
    with held(target.pid) as snapshot:
        assert snapshot.unresponsive_threads == 0
    assert target.line() == {"effects": 2}
    assert target.ask("reply") == {"replied": 0}


def test_a_call_that_waits_killably_is_asked_for_once(spawn: Callable[..., Target]) -> None:
    target = spawn("notified", "killable")
    assert target.line() == {"effects": 1}
    with held(target.pid, stop_timeout=0.1) as snapshot:
        assert snapshot.unresponsive_threads == 1
    eventually(lambda: is_free(target.pid))
    # If the call were made again, its notification would come before the reply.
    assert target.ask("reply") == {"replied": 0}

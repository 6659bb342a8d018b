"""A thread whose system call a supervisor answers (seccomp_unotify(2)).

A stop ends its wait, and the call begins anew: the supervisor hears of it twice, and does twice
what it asks for.  Nothing mends that from outside: the kernel takes the first notification back
before the tracer hears of the stop (kernel/seccomp.c, seccomp_do_user_notification).  A filter
that waits killably is not touched.
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
    # Whoever asks for it again would be heard before the reply.
    assert target.ask("reply") == {"replied": 0}

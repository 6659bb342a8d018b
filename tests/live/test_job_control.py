"""A parent hears of its child what it would hear if nobody had stopped the child for a core."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Target
from tests.live.accounts import assert_free, await_rounds, held
from tests.live.test_tracer import await_stopped

STOP_SIGNALS = [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU]
DUMPS = 20


@pytest.mark.parametrize("while_held", [False, True], ids=["between stops", "while held"])
def test_a_parent_has_no_signal_more_and_none_less(
    build: Callable[[str], Path], while_held: bool
) -> None:
    def life(dumps: int) -> list[dict[str, Any]]:
        """Every SIGCHLD in a life with many stops by job control."""
        target = Target([str(build("sigchld")), str(build("confined"))])
        told = []
        try:
            for number in STOP_SIGNALS:
                for each in (number, signal.SIGCONT):
                    if dumps and while_held:
                        with held(target.pid):
                            os.kill(target.pid, each)
                    else:
                        os.kill(target.pid, each)
                    told.append(target.line())
                    for _ in range(dumps):
                        with held(target.pid):
                            pass
                    if each == number:
                        await_stopped(target)
                assert_free(target.pid)
            await_rounds(target)
            os.kill(target.pid, signal.SIGKILL)
            told.append(target.line())
            assert target.popen.stdout is not None
            assert target.popen.stdout.read() == ""
        finally:
            target.kill()
        return told

    expected = life(0)
    # CLD_STOPPED, CLD_CONTINUED and CLD_KILLED (sigaction(2)).
    assert [line["code"] for line in expected] == [5, 6] * len(STOP_SIGNALS) + [2]
    assert [[line["code"], line["status"]] for line in expected] == [
        each for line in expected for each in line["waits"]
    ]
    assert life(DUMPS) == expected

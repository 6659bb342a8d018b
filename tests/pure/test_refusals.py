"""The log reports every kind of refusal, and no kind fills it."""

import logging

import pytest

from gcorefs.mount.errors import PolicyRefused, RequestReason
from gcorefs.mount.refusals import MOST_KINDS, Refusals
from gcorefs.process.errors import ProcessError, Reason


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("gcorefs.mount.refusals.time.monotonic", lambda: now[0])
    return now


def test_of_many_alike_the_first_are_told_and_then_how_many(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals()
    denied = ProcessError(Reason.DENIED, 7, "uid 1000")
    for _ in range(5_000):
        refusals.log(denied)
    assert caplog.messages == [str(denied)] * 1_000
    # Refusals of another process and of another kind are logged meanwhile.
    others = [ProcessError(Reason.DENIED, 7, "uid 1001"), ProcessError(Reason.GONE, 7)]
    for other in others:
        refusals.log(other)
    assert caplog.messages[1_000:] == [str(other) for other in others]
    clock[0] = 10.0
    refusals.log(denied)
    assert caplog.messages[1_002:] == [f"{Reason.DENIED.text}: 4000 more times", str(denied)]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_few_refusals_are_all_logged(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals()
    for pid in range(1, 300):
        refusals.log(ProcessError(Reason.GONE, pid))
        clock[0] += 1
    assert len(caplog.messages) == 299


def test_many_kinds_are_not_remembered_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for number in range(5_000):
        refusals.log(ProcessError(Reason.TRACED, 7, f"TracerPid {number}"))
    assert 0 < len(refusals) <= MOST_KINDS


def test_made_up_values_in_paths_do_not_fill_the_log(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals()
    for number in range(5_000):
        line = f"option memory: '{number}' is none of filter"
        refusals.log(PolicyRefused(RequestReason.NO_VALUE, 7, "memory", line))
    assert len(caplog.messages) == 1_000
    reason = RequestReason.NO_VALUE.text
    assert caplog.messages[7] == f"process 7: {reason} (option memory: '7' is none of filter)"

"""Why a dump is refused or lost: one reason, one errno, one line, as in docs/errors.md."""

import errno
from pathlib import Path

import pytest

from gcorefs.errors import Refusal, Why
from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.process.errors import ProcessError, Reason

DOCS = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
ALL: tuple[Why, ...] = (*Reason, *RequestReason)
REASONS = pytest.mark.parametrize("reason", ALL, ids=lambda reason: reason.name)


def refusal(reason: Why, pid: int, detail: str = "") -> Refusal:
    """The error of the layer to which the reason belongs."""
    kind = ProcessError if isinstance(reason, Reason) else RequestError
    return kind(reason, pid, detail)


def test_no_reason_is_another_under_a_second_name() -> None:
    # An enum merges members of equal value: two reasons with the same text would become one.
    names = [*Reason.__members__, *RequestReason.__members__]
    assert names == [reason.name for reason in ALL]
    assert len({reason.text for reason in ALL}) == len({*names}) == len(names)


@REASONS
def test_a_reason_has_an_errno_and_one_clear_line(reason: Why) -> None:
    assert reason.errno in errno.errorcode
    assert reason.text.isprintable()
    assert reason.text == reason.text.strip()
    assert not reason.text.endswith(".")
    assert "|" not in reason.text


@REASONS
def test_a_reason_has_a_next_step(reason: Why) -> None:
    assert reason.step.isprintable()
    assert reason.step == reason.step.strip(" .")
    assert len(reason.step) > 9
    assert "|" not in reason.step
    assert "PID" not in refusal(reason, 4711).step
    assert refusal(reason, 0).step == reason.step


@REASONS
def test_an_error_names_the_process_and_the_reason(reason: Why) -> None:
    error = refusal(reason, 4711)
    assert str(error) == error.strerror == f"process 4711: {reason.text}"
    assert (error.errno, error.reason, error.pid) == (reason.errno, reason, 4711)
    assert isinstance(error, OSError)


@REASONS
def test_what_more_is_known_stands_in_parentheses(reason: Why) -> None:
    error = refusal(reason, 1, "TracerPid 7")
    assert str(error) == f"process 1: {reason.text} (TracerPid 7)"


@REASONS
def test_an_error_is_of_our_class_whatever_its_errno(reason: Why) -> None:
    # OSError(errno, text) turns itself into PermissionError and others; a subclass does not.
    assert type(ProcessError(reason, 1)) is ProcessError
    assert type(RequestError(reason, 1)) is RequestError


def _name(number: int) -> str:
    # Linux has two names for 35, and Python shows the unusual one.
    return "EDEADLK" if number == errno.EDEADLK else errno.errorcode[number]


def _rows() -> list[tuple[str, str, str]]:
    """Errno, text and next step of every row of the manual that begins with an errno."""
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split("|") for line in lines if line.startswith("|")]
    cells = [[cell.strip(" `") for cell in row] for row in rows]
    return [(row[0], row[1], row[2]) for row in cells if hasattr(errno, row[0])]


@REASONS
def test_the_manual_has_a_row_for_each_reason(reason: Why) -> None:
    row = (_name(reason.errno), reason.text, reason.step)
    assert row in _rows(), f"{DOCS.name} lacks | {' | '.join(row)} |"


def test_the_manual_has_no_other_rows() -> None:
    assert sorted(_rows()) == sorted(
        (_name(reason.errno), reason.text, reason.step) for reason in ALL
    )

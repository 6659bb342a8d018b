"""The log never hurts its writer, and has no errors that are none."""

import errno
import logging
import os
from pathlib import Path

import pytest

from gcorefs.mount import log


def test_without_a_log_daemon_nothing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = log.to_syslog(str(tmp_path / "none"))
    handler.emit(logging.LogRecord("gcorefs", logging.INFO, "", 0, "x", None, None))
    handler.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "number", "is_wanted"),
    [
        ("pyfuse3", errno.ENOENT, False),
        ("pyfuse3", errno.EINVAL, True),
        ("gcorefs", errno.ENOENT, True),
    ],
)
def test_an_answer_that_nobody_waits_for_is_no_error(
    name: str, number: int, is_wanted: bool
) -> None:
    text = "fuse_release(): fuse_reply_* failed with %s"
    arguments = (os.strerror(number),)
    record = logging.LogRecord(name, logging.ERROR, "", 0, text, arguments, None)
    assert log.is_wanted(record) == is_wanted

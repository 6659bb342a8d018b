"""The log never hurts its writer."""

import logging
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

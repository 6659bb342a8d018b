"""The terminal session on the first page, run again."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_its_commands_work_and_say_what_the_picture_shows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "setup" / "session", "record", tmp_path],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "session.txt").read_text()
    shown = (ROOT / "docs" / "session.txt").read_text()
    assert commands(said) == commands(shown)
    # Names of functions of libc depend on its version.
    for line in ("4 threads: worker-1, worker-2, worker-3, worker-4", "State:  S (sleeping)"):
        assert line in said.splitlines()
        assert line in shown.splitlines()
    assert len(re.findall(r"^  #\d+  serve_request  sample$", said, re.MULTILINE)) == 1
    before, after = map(int, re.findall(r"^\$1 = (\d+)$", said, re.MULTILINE))
    assert before < after  # the process went on


def commands(text: str) -> list[str]:
    return [re.sub(r"\d+", "N", line) for line in text.splitlines() if line.startswith("# ")]

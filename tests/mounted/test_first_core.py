"""`make run`: a mount, a first core, and gdb's output for it."""

import re
import subprocess
from pathlib import Path

from tests.conftest import Mount

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "first-core"


def test_the_first_core_is_read_and_nothing_warns(unmounted: Mount) -> None:
    done = subprocess.run(
        [SCRIPT, unmounted.path], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    # Twice: from the copy and from the mount.
    assert len(re.findall(r"^Thread \d+ ", done.stdout, re.MULTILINE)) == 2 * 5
    assert len(re.findall(r"^#\d+ .* in serve_request \(", done.stdout, re.MULTILINE)) == 2 * 4
    assert unmounted.path.is_mount()

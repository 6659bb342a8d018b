"""`gcorefs info --html` of a process, and in a browser."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Target
from tests.mounted.conftest import gcorefs
from tests.pure.test_web_page import Page

Spawn = Callable[..., Target]


def test_the_page_of_a_process_has_what_json_has(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("threads", 2)
    path = tmp_path / "core"
    assert gcorefs("dump", target.pid, "-o", path).returncode == 0
    result = gcorefs("info", "--html", path)
    assert (result.returncode, result.stderr) == (0, b"")
    page = Page(result.stdout.decode())
    assert page.open == []
    facts = json.loads(gcorefs("info", "--json", path).stdout)
    assert [row[1:] for row in page.rows()] == [
        [each[key] for key in ("in_file", "zeros", "left_out", "unreadable")]
        for each in facts["mappings"]
    ]
    assert f"threads {target.pid}" in page.text


def test_html_and_json_exclude_each_other(spawn: Spawn) -> None:
    result = gcorefs("info", "--html", "--json", spawn("threads", 1).pid)
    assert result.returncode == 2
    assert b"--json and --html exclude each other" in result.stderr


def test_a_browser_shows_it_and_loads_nothing(spawn: Spawn, tmp_path: Path) -> None:
    page = tmp_path / "space.html"
    page.write_bytes(gcorefs("info", "--html", spawn("threads", 2).pid).stdout)
    picture, profile = tmp_path / "space.png", tmp_path / "profile"
    command = [
        "chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--window-size=1200,900",
    ]  # fmt: skip
    shown = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, timeout=120, check=True
    )
    dom = Page(shown.stdout.decode())
    assert len(dom.rows()) == len(Page(page.read_text()).rows())
    assert b"CONSOLE" not in shown.stderr  # an error of the page, or a refusal of its policy
    subprocess.run(
        [*command, f"--screenshot={picture}", page.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")

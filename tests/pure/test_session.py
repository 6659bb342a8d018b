"""The picture on the first page: drawn from what the commands have said."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "setup" / "session"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_same_text_gives_the_same_picture(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "session.txt").read_text()
    (tmp_path / "session.txt").write_text(text)
    subprocess.run([sys.executable, SCRIPT, "draw", tmp_path], check=True)
    picture = (tmp_path / "session.svg").read_bytes()
    assert picture == (ROOT / "docs" / "session.svg").read_bytes()
    found = ["".join(each.itertext()) for each in ET.fromstring(picture).iter(f"{SVG}text")]
    assert [line.replace("\N{NO-BREAK SPACE}", " ") for line in found] == text.splitlines()
    assert max(map(len, text.splitlines())) <= 73  # else a line is cut off


def test_it_loads_nothing() -> None:
    picture = (ROOT / "docs" / "session.svg").read_text()
    assert re.findall(r"https?://[^\"]+", picture) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"href|@import|url\(|<script", picture)


def test_the_first_page_shows_it() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "](docs/session.svg)" in readme
    first, _, _ = readme.partition("](docs/session.svg)")
    lines = [line for line in first.splitlines() if line.startswith("# gcorefs ")]
    assert len(first.splitlines()) <= 25
    assert lines

"""The manual describes each option as the program defines it."""

import re
from pathlib import Path

from gcorefs.mount.options import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| `(\w+)=(\w+)` \| ([^|]+) \|")


def test_every_option_has_a_row_with_its_default() -> None:
    rows = ROW.findall((ROOT / "docs" / "mount.md").read_text())
    shown = {name: default for name, _, default in rows}
    assert sorted(shown) == sorted(OPTIONS)
    assert shown.pop("copy_limit") == "a quarter of the machine's memory"
    assert {name: text(OPTIONS[name].default) for name in shown} == shown


def text(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_first_page_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150

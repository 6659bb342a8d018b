"""The manual describes each option as the program defines it."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from gcorefs.arch.xsave import XsaveAccount, XsaveLayout
from gcorefs.elfcore.filter import LeftOut
from gcorefs.elfcore.memory_kinds import MemoryKind
from gcorefs.elfcore.memory_rules import memory_rule
from gcorefs.elfcore.provenance import NT_GCOREFS, Account, How, Origin, Provenance
from gcorefs.gather_memory import unknown_holes
from gcorefs.hold.copied import HoldCopy
from gcorefs.hold.copy import Copy
from gcorefs.hold.room import Room
from gcorefs.mount.options import OPTIONS
from gcorefs.mount.policy_names import IN_NAMES
from gcorefs.policy import Policy
from gcorefs.process.memory import Ways
from gcorefs.profiles import BUILT_IN, text_of

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| `(\w+)=(\w+)` \| ([^|]+) \|")
PROFILE = re.compile(r"^\| `@(\w+)` \| `([^`|]+)` \|", re.MULTILINE)
OPTION_COLUMNS = 7
FIELD = re.compile(r"^\| `([\w.]+)` \|", re.MULTILINE)


def test_every_option_has_a_row_with_its_default() -> None:
    rows = ROW.findall((ROOT / "docs" / "mount.md").read_text())
    shown = {name: default for name, _, default in rows}
    assert sorted(shown) == sorted(OPTIONS)
    assert shown.pop("copy_limit") == "a quarter of the machine's memory"
    assert {name: text(OPTIONS[name].default) for name in shown} == shown


def test_every_option_has_a_row_with_its_cost() -> None:
    lines = (ROOT / "docs" / "policies.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if " | " in line
    ]
    by_name = {row[0].strip("`"): row[1:] for row in rows if len(row) == OPTION_COLUMNS}
    for heading in ("option", "---"):
        del by_name[heading]
    assert [*by_name] == [*OPTIONS]
    for name, (in_name, default, unit, values, costs, perturbs) in by_name.items():
        option = OPTIONS[name]
        assert in_name == ("yes" if name in IN_NAMES else "no"), name
        if name != "copy_limit":
            assert default == text(option.default), name
        assert unit == option.unit, name
        if option.words:
            assert values == ", ".join(f"`{word}`" for word in option.words), name
        elif option.canonical is None:
            assert values == f"{0 if option.type is float else option.least} to 1e9", name
        assert costs, name
        assert perturbs, name


def test_every_profile_has_a_row_with_its_options() -> None:
    rows = PROFILE.findall((ROOT / "docs" / "policies.md").read_text())
    assert dict(rows) == {name: text_of(options) for name, options in BUILT_IN.items()}


def test_every_rule_for_memory_has_a_row() -> None:
    _, _, manual = (ROOT / "docs" / "policies.md").read_text().partition("## memory\n")
    cells = re.findall(r"^\| (`[^|]*) \|", manual, re.MULTILINE)
    rules = re.findall(r"`([\w+]+)`", " ".join(cells))
    kinds = [kind.value for kind in MemoryKind]
    assert sorted(rules) == sorted(
        ["filter", "kernel", "0x0", "0x1ff", "all", "all+dontdump", "stacks", "none", *kinds,
         "filter+text", "0x33+heap", "stacks+jit", "heap+stack"]
    )  # fmt: skip
    for rule in rules:
        assert memory_rule(str(memory_rule(rule))) == memory_rule(rule)


def text(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default) or "none"


def facts_of_a_note() -> dict[str, Any]:
    """The content of a note that has every field."""
    holder = HoldCopy(lambda: Copy(Room(1)))
    holder.give_up("there is no room")
    ways = SimpleNamespace(
        pagemap=SimpleNamespace(why_unknown="it is missing"),
        shmem=SimpleNamespace(why_unknown="it is missing"),
    )
    layout = XsaveLayout(features=3, components=(), size=576)
    return Provenance(
        Origin(version="1", host="db7", pid=4711, stopped_at="", stop_milliseconds=1.0),
        policy={
            **Policy(memory="stacks", referenced=1, include="x", exclude="y", largest=1).facts(),
            "coredump_filter": "0x33",
            **unknown_holes(cast(Ways, ways)),
            **holder.facts(),
        },
        stopped=1,
        others={number: how for number, how in enumerate(How) if not how.is_exact},
        account=Account(left_out={reason.value: 0 for reason in LeftOut}),
        no_cpu=[1],
        cut_stacks=[1],
        xstate=XsaveAccount(layout, layout),
    ).facts()


def test_every_field_of_the_note_has_a_row() -> None:
    fields = []
    for name, value in facts_of_a_note().items():
        fields += (
            [f"{name}.{key}" for key in value] if isinstance(value, dict) and value else [name]
        )
    manual = (ROOT / "docs" / "note.md").read_text()
    assert sorted(FIELD.findall(manual)) == sorted(fields)
    assert f"{NT_GCOREFS:#x}" in manual


def test_the_first_page_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_is_in_the_contents() -> None:
    """`make docs` refuses a page that is not (toc.not_included)."""
    contents = (ROOT / "docs" / "index.md").read_text().splitlines()
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= set(contents)

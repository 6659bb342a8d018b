"""The lines that `gcorefs info` shows of a core."""

from dataclasses import replace
from typing import Any

from gcorefs.cli.picture import Paper, draw
from gcorefs.elfcore import space
from gcorefs.elfcore.corefile import Core
from tests.pure.cores import account_of, made
from tests.pure.test_corefile import MEMORY, read

CLEAR = "\x1b[2J\x07\n"
"""Clears a terminal."""


def lines(core: Core) -> list[str]:
    rows = space.mappings(core)
    return list(draw(Paper(80), core, space.total(rows), rows))


def test_no_word_of_a_note_reaches_the_terminal_as_a_control_character() -> None:
    core = read(made(MEMORY, account_of(MEMORY)))
    facts = core.facts
    assert facts is not None
    hostile: dict[str, Any] = {
        **facts,
        "host": CLEAR,
        "stopped_at": CLEAR,
        "version": CLEAR,
        "threads": {CLEAR: 1},
        "tids": {CLEAR: [1, 2]},
        "policy": {CLEAR: CLEAR},
        "left_out": {CLEAR: 1},
    }
    shown = lines(replace(core, facts=hostile))
    assert len(shown) == len(lines(replace(core, facts={**facts, "tids": {"zero": [1, 2]}})))
    for line in shown:
        assert line.isprintable(), line

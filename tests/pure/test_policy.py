"""A policy that is made in Python has the words and numbers that a text may have, and no others."""

import math
from dataclasses import fields
from typing import Any

import pytest

from gcorefs.mount.options import MountPolicy
from gcorefs.option import Option, OptionError, options_of
from gcorefs.policy import Policy

OPTIONS = options_of(MountPolicy)


def made(values: dict[str, Any]) -> MountPolicy:
    return MountPolicy(**values)


def wrong(option: Option) -> list[object]:
    """Values of all kinds that it cannot have."""
    if option.words:
        return ["x", "", 1, None, option.words]
    if option.type is str:
        return [None, 1, b"", *(["\0"] if option.canonical else [])]
    if option.type is float:
        return [-1, -0.1, math.nan, math.inf, 1e9 + 1, "1", None, True]
    return [option.least - 1, 10**9 + 1, 1.5, "1", None, True]


WRONG = [(name, value) for name, option in OPTIONS.items() for value in wrong(option)]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}-{value}" for name, value in WRONG])
def test_a_wrong_value_is_refused_by_name(name: str, value: object) -> None:
    if name == "spool" and value == "\0":
        value = "relative"
    with pytest.raises(OptionError, match=rf"^option {name}: ") as caught:
        made({name: value})
    assert str(caught.value).isprintable()


def test_every_value_of_an_option_is_taken() -> None:
    for name, option in OPTIONS.items():
        numbers: tuple[Any, ...] = (
            (0.0, 0, 1, 1e9) if option.type is float else (option.least, 10**9)
        )
        for value in option.words or ((option.default,) if option.type is str else numbers):
            assert getattr(made({name: value}), name) == value
    assert {each.name for each in fields(Policy)} < OPTIONS.keys()

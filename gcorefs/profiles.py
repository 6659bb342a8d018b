"""A text that names a policy: a profile, options, or a profile and options that change it.

    @threads
    memory=none,hold=copy
    @all,hold=copy

A profile is a policy with a name.  An option that the text does not name keeps its value.  Of an
option named twice the last counts, as after -o.
"""

from collections.abc import Mapping
from typing import Any

from gcorefs.option import Option, OptionError

MARK = "@"
"""A text that begins with this begins with the name of a profile."""

Profiles = Mapping[str, Mapping[str, str]]
"""Options with their values as texts, by the name of the profile."""

BUILT_IN: Profiles = {
    "all": {"memory": "all"},
    "gentle": {"stop": "gentle", "hold": "copy"},
    "glance": {"stop": "none"},
    "stacks": {"memory": "stacks", "hold": "copy"},
    "text": {"memory": "filter+text"},
    "threads": {"memory": "none", "stop": "each", "hold": "copy"},
}


class UnknownWord(OptionError):
    """There is no profile or no option of this name."""


def settings(
    text: str,
    options: Mapping[str, Option],
    profiles: Profiles = BUILT_IN,
) -> dict[str, Any]:
    """The options that a text names, with their values.  OptionError.

    `options`: the options that it may name, and those of all profiles.
    """
    words = text.split(",")
    found: dict[str, Any] = {}
    if text.startswith(MARK):
        profile = profiles.get(words.pop(0).removeprefix(MARK))
        if profile is None:
            raise _unknown(text, options, profiles)
        found = {name: options[name].parse(value) for name, value in profile.items()}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in options or not equals:
            raise _unknown(word, options, profiles)
        found[name] = options[name].parse(value)
    return found


def _unknown(word: str, options: Mapping[str, Option], profiles: Profiles) -> UnknownWord:
    names = ", ".join(MARK + name for name in profiles)
    return UnknownWord(
        f"{word!r} is no policy; there are the profiles {names}, and the options "
        + ", ".join(f"{name}=" for name in options)
    )


def text_of(values: Mapping[str, Any]) -> str:
    """The options with these values, as a text that `settings` reads."""
    return ",".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short

"""Profiles in a file, /etc/gcorefs.toml or that of --config:

    [profiles.night]
    memory = "all"
    hold = "copy"
    max_stop = 5

The values are those of the options, as numbers or strings.
"""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from typing import Any

from gcorefs.errors import GcorefsError
from gcorefs.option import Option, OptionError
from gcorefs.profiles import BUILT_IN, Profiles

DEFAULT_PATH = "/etc/gcorefs.toml"

_NAME = re.compile("[a-z][a-z0-9_-]{0,31}")


class ProfileError(GcorefsError, ValueError):
    """A file is not as it should be.  The text names file, line and key."""


def read_profiles(path: str | None, options: Mapping[str, Option]) -> Profiles:
    """The profiles in a file, beside those that are built in.  OSError, ProfileError.

    `path`: None for that of the machine, which need not be there.
    `options`: the options that a profile may have.
    """
    if path is None:
        if not os.path.exists(DEFAULT_PATH):
            return BUILT_IN
        path = DEFAULT_PATH
    return parse_profiles(path, _content(path), options)


def _content(path: str) -> bytes:
    # stat(2) first: open(2) of a FIFO waits for a writer.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ProfileError(_line(f"{path}: it is no regular file"))
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def parse_profiles(path: str, data: bytes, options: Mapping[str, Option]) -> Profiles:
    """The same, from the content of the file.  ProfileError."""
    try:
        text = data.decode()
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # it names line and column
        raise ProfileError(_line(f"{path}: it is no TOML: {error}")) from error
    places = _Places(path, text)
    for key in content.keys() - {"profiles"}:
        raise places.error((key,), "there are only profiles here, as [profiles.NAME]")
    profiles = content.get("profiles", {})
    if not isinstance(profiles, dict):
        raise places.error(("profiles",), "it is no table; write [profiles.NAME]")
    return {
        **BUILT_IN,
        **{name: _profile(places, name, values, options) for name, values in profiles.items()},
    }


def _profile(
    places: "_Places", name: str, values: Any, options: Mapping[str, Option]
) -> Mapping[str, str]:
    key = ("profiles", name)
    if not _NAME.fullmatch(name) or name in options:
        raise places.error(key, "a name has lower-case letters, digits, - and _")
    if name in BUILT_IN:
        raise places.error(key, "gcorefs has a profile of that name")
    if not isinstance(values, dict) or not values:
        raise places.error(key, "it is no table of options")
    found = {}
    for option, value in values.items():
        if option not in options:
            known = ", ".join(options)
            raise places.error((*key, option), f"a profile may have the options {known}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise places.error((*key, option), "it is neither a number nor a string")
        try:
            text = str(value)
        except ValueError as error:  # a hexadecimal number of more than 4,300 digits
            why = "it is neither a number that is read here, nor a string"
            raise places.error((*key, option), why) from error
        try:
            options[option].parse(text)
        except OptionError as error:
            raise places.error((*key, option), str(error)) from error
        found[option] = text
    return found


class _Places:
    """Where the keys of a file stand.  tomllib does not tell."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def error(self, key: tuple[str, ...], what: str) -> ProfileError:
        """`key`: the names of the tables around a key, and its own."""
        name = ".".join(key)
        return ProfileError(_line(f"{self._path}:{self._number(key)}: {name}: {what}"))

    def _number(self, key: tuple[str, ...]) -> int:
        """The line of a key; of the last table around it that is found, if it is written in
        another way."""
        found = 1
        table: tuple[str, ...] = ()
        for number, line in enumerate(self._lines, 1):
            if header := re.match(r"\s*\[+([^\]]*)\]", line):
                table = _words(header[1])
                here = table
            else:
                here = (*table, *_words(line.partition("=")[0]))
            if here == key:
                return number
            if here and here == key[: len(here)]:
                found = number
        return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip().strip("\"'") for word in text.split(".") if word.strip())


def _line(text: str) -> str:
    """The text without characters that a terminal would obey."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)

"""Options: the name, type, default, unit and help of each.

A frozen dataclass holds options that belong together (policy.py, mount/options.py), and
`options_of` makes its table.  -o and the command line both parse by that table, so that an option
means the same everywhere; tests compare the manual with it.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from gcorefs.errors import GcorefsError

_MOST = 1_000_000_000


class OptionError(GcorefsError, ValueError):
    """An unknown option, or an invalid value.  The text is one line for people."""


class ValueRefused(OptionError):
    """An invalid value of the option `name`."""

    def __init__(self, name: str, line: str) -> None:
        super().__init__(line)
        self.name = name


@dataclass(frozen=True, slots=True)
class Option:
    name: str
    type: Any
    """float: 0 to 1e9; int: `least` to 1e9; a Literal: its words; str: what `canonical` takes."""
    default: Any
    unit: str
    """SECONDS, MIB, N or WORD, as usage lines show it."""
    help: str
    canonical: Callable[[str], str] | None = None
    """The one text for all texts with the same meaning, for a str.  ValueError: it has none; the
    error says what a text may be."""
    least: int = 1
    """The smallest whole number."""

    @property
    def words(self) -> tuple[str, ...]:
        """The values that it may have; empty for a number."""
        return get_args(self.type)

    def parse(self, text: str) -> Any:
        """The value of a text.  OptionError."""
        if self.canonical is not None:
            try:
                return self.canonical(text)
            except ValueError as error:
                raise self._refusal(text, f"none of {error}") from error
        # Imported here to save memory in a dump without options (cli/victim.py).
        import msgspec  # noqa: PLC0415

        kind = self.type
        if not self.words:
            kind = Annotated[kind, msgspec.Meta(ge=0 if kind is float else self.least, le=_MOST)]
        try:
            value = msgspec.convert(text, kind, strict=False)
        except (msgspec.ValidationError, UnicodeError) as error:
            raise self._refusal(text, self._range) from error
        if isinstance(value, float) and math.isnan(value):  # NaN passes both bounds
            raise self._refusal(text, self._range)
        return value

    def check(self, value: object) -> None:
        """OptionError: no text has this value."""
        if self.words:
            is_right = value in self.words
        elif self.type is str:
            is_right = isinstance(value, str)
            if isinstance(value, str) and self.canonical is not None:
                self.parse(value)
        elif self.type is float:  # NaN is in no range
            is_right = isinstance(value, float | int) and 0 <= value <= _MOST
        else:
            is_right = isinstance(value, int) and self.least <= value <= _MOST
        if not is_right or isinstance(value, bool):
            raise self._refusal(value, self._range)

    @property
    def _range(self) -> str:
        """What a refused value is not."""
        if self.words:
            return f"none of {', '.join(self.words)}"
        if self.type is str:
            return "no text"
        if self.type is float:
            return f"not a number of seconds from 0 to {_MOST:g}"
        return f"not a whole number from {self.least} to {_MOST:g}"

    def _refusal(self, value: object, what: str) -> ValueRefused:
        return ValueRefused(self.name, f"option {self.name}: {value!r} is {what}")


def import_parser() -> None:
    """Import now what `Option.parse` imports.

    For a program that runs for weeks: later its files may be gone, or those of another version.
    """
    import msgspec  # noqa: F401, PLC0415


def option(
    default: Any,
    unit: str,
    help_text: str,
    canonical: Callable[[str], str] | None = None,
    least: int = 1,
) -> Any:
    """A field of a dataclass of options."""
    metadata = {"unit": unit, "help": help_text, "canonical": canonical, "least": least}
    return dataclasses.field(default=default, metadata=metadata)


_tables: dict[type, dict[str, Option]] = {}


def options_of(kind: type) -> dict[str, Option]:
    """The table of a dataclass of options, in the order of its fields."""
    if kind not in _tables:
        types = get_type_hints(kind)
        _tables[kind] = {
            each.name: Option(each.name, types[each.name], each.default, **each.metadata)
            for each in dataclasses.fields(kind)
        }
    return _tables[kind]

"""include= and exclude=: mappings by their names, or memory by its addresses.

    *secret*+libcrypto.so*      names, with * for any characters and ? for one
    7f0000000000-7f0000200000   addresses, as in /proc/PID/maps

A name is that of maps: a path, or what prctl(2) (PR_SET_VMA_ANON_NAME) has set.  A pattern may also
stand for the last part of a path, and for a name without its brackets: `heap`, `anon:secret`.  A
file name cannot have a slash, so in the name of a directory ? stands for it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gcorefs.elfcore.selection import Range
from gcorefs.errors import GcorefsError

WORDS = "names with * and ?, or ranges of addresses like 7f00000-7f20000, with + between them"

_RANGE = re.compile("([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_BRACKETS = re.compile(rb"\[(.*)\]")
_DELETED = b" (deleted)"


class PatternError(GcorefsError, ValueError):
    """There is no such pattern.  The text says what a pattern may be."""


@dataclass(frozen=True, slots=True)
class Patterns:
    expression: bytes
    """Matches each name, as a regular expression; empty if there are no names."""
    ranges: Sequence[Range]

    @property
    def names(self) -> re.Pattern[bytes] | None:
        """The same, compiled.  That takes milliseconds if it is long, and the event loop, which
        reads the names of policies, never needs it."""
        return _compiled(self.expression) if self.expression else None

    def match(self, name: bytes) -> bool:
        """True if a pattern is for the name of a mapping, as in maps."""
        if not self.expression or not name:
            return False
        names = _compiled(self.expression)
        # The kernel appends it to the name of a file that is gone, but a file may also have it in
        # its own name.
        whole = {name, name.removesuffix(_DELETED)}
        forms = [*whole, *(each.rpartition(b"/")[2] for each in whole)]
        if inside := _BRACKETS.fullmatch(name):
            forms.append(inside[1])
        return any(names.fullmatch(form) for form in forms)


@lru_cache(100)
def _compiled(expression: bytes) -> re.Pattern[bytes]:
    return re.compile(expression, re.DOTALL)


NONE = Patterns(b"", ())


@lru_cache(100)
def patterns(text: str) -> Patterns:
    """The patterns of a text; an empty text has none.  PatternError."""
    if not text:
        return NONE
    names = []
    ranges = []
    for word in text.split("+"):
        if match := _RANGE.fullmatch(word):
            start, end = (int(number, 16) for number in match.groups())
            if start >= end:
                raise PatternError(WORDS)
            ranges.append((start, end))
        elif not word or not word.isprintable():
            raise PatternError(WORDS)
        else:
            names.append(_as_expression(word))
    return Patterns(b"|".join(names), tuple(ranges))


def canonical(text: str) -> str:
    """The text itself.  PatternError if it has no patterns."""
    patterns(text)
    return text


def _as_expression(word: str) -> bytes:
    """Each part between two stars matches where it first fits, and there is no other try (?>):
    a later place only leaves less room for the parts behind it.  With a plain star between them re
    would try all combinations of places, which takes for ever, with the interpreter lock held.
    """
    parts = [b"".join(map(_literal, part)) for part in word.split("*")]
    if len(parts) == 1:
        return parts[0]
    first, *middle, last = parts
    found = [first, *(b"(?>%b*?%b)" % (_ONE, part) for part in middle if part), _ONE, b"*", last]
    return b"".join(found)


# Of UTF-8, or else a byte.  A name is bytes, and there is one way only to take it apart (?>).
_ONE = (
    rb"(?>[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}"
    rb"|[\xf0-\xf4][\x80-\xbf]{3}|[\x80-\xff])"
)


def _literal(character: str) -> bytes:
    return _ONE if character == "?" else re.escape(character.encode("utf-8", "surrogateescape"))

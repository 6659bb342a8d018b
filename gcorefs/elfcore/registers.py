"""The register sets of a thread, by kind.  notes.py makes notes of them.

The sets of ten thousand threads take 30 MiB.  A store compresses those of many threads together
(header_store.py).
"""

from dataclasses import dataclass
from functools import lru_cache

from gcorefs.arch.machine import RegisterKind, Sets
from gcorefs.arch.xsave import XStates
from gcorefs.elfcore.header_store import Later, Packed, Shelf, at_once


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Which sets a thread has beyond the general registers, and the bytes of each.

    The threads of a process have few shapes.  Equal shapes are one object, for most of the time.
    """

    kinds: tuple[RegisterKind, ...]
    sizes: tuple[int, ...]

    def places(self) -> dict[RegisterKind, slice]:
        """Where each set lies if each one directly follows the one before it."""
        found = {}
        end = 0
        for kind, size in zip(self.kinds, self.sizes, strict=True):
            found[kind] = slice(end, end + size)
            end += size
        return found


_shape = lru_cache(Shape)
_NO_SETS = _shape((), ())


@dataclass(slots=True, unsafe_hash=True)
class Registers:
    """The registers of one thread.

    Treat them as immutable.  They are not frozen because that takes longer to make.
    """

    general: bytes = b""
    """Empty if they are not known."""
    shape: Shape = _NO_SETS
    data: bytes | Packed = b""
    """The sets of `shape`, each directly behind the one before it."""

    @classmethod
    def of(cls, general: bytes, sets: Sets = ()) -> "Registers":
        """Registers that are in no store."""
        kinds, parts = zip(*sets, strict=True) if sets else ((), ())
        return cls(general, _shape(kinds, tuple(map(len, parts))), b"".join(parts))

    def __contains__(self, kind: RegisterKind) -> bool:
        return bool(self.general) if kind is RegisterKind.GENERAL else kind in self.shape.kinds

    def __getitem__(self, kind: RegisterKind) -> bytes:
        """One set.  KeyError: the thread does not have it, or it is not known."""
        if kind is RegisterKind.GENERAL and self.general:
            return self.general
        place = self.shape.places()[kind]
        return (self.data.unpack() if isinstance(self.data, Packed) else self.data)[place]


def xstate_sets(xstates: XStates, state: bytes) -> Sets:
    """The sets that a core has for one XSAVE area of a thread."""
    written, kept = xstates.take(state)
    found = [(RegisterKind.XSTATE, written)]
    return [(RegisterKind.KERNEL_XSTATE, kept), *found] if kept else found


class RegisterStore:
    """Keeps the registers of many threads."""

    def __init__(self, later: Later = at_once) -> None:
        self._shelf = Shelf(later)
        self._last = _NO_SETS

    def put(self, general: bytes, sets: Sets) -> Registers:
        kinds, parts = zip(*sets, strict=True) if sets else ((), ())
        sizes = tuple(map(len, parts))
        # Most threads are alike, and the hash of an enum takes longer than this comparison.
        if self._last.kinds != kinds or self._last.sizes != sizes:
            self._last = _shape(kinds, sizes)
        return Registers(general, self._last, self._shelf.put(b"".join(parts)))

"""Notes of the register sets of threads: fs/binfmt_elf.c, fill_thread_core_info."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from gcorefs.arch.machine import Machine, RegisterKind
from gcorefs.elfcore.elf import note_header
from gcorefs.elfcore.header_store import Packed
from gcorefs.elfcore.provenance import GCOREFS, NT_GCOREFS_XSTATE
from gcorefs.elfcore.registers import Registers, Shape


class _RegisterForm:
    """How the register sets of one shape become notes."""

    def __init__(self, machine: Machine, shape: Shape) -> None:
        places = shape.places()
        self._pieces: list[bytes | slice] = []
        self.size = 0
        for kind, owner, note in _kinds_in_order(machine):
            if (place := places.pop(kind, None)) is not None:
                size = place.stop - place.start
                header, padding = note_header(owner, note, size), bytes(-size % 4)
                self._pieces += [header, place]
                if padding:
                    self._pieces.append(padding)
                self.size += len(header) + size + len(padding)
        if places:
            raise ValueError(f"no note for {', '.join(kind.name for kind in places)}")

    def fill_in(self, data: bytes) -> bytes:
        return b"".join(
            [data[piece] if isinstance(piece, slice) else piece for piece in self._pieces]
        )


_register_form = lru_cache(_RegisterForm)


def _kinds_in_order(machine: Machine) -> Iterator[tuple[RegisterKind, bytes, int]]:
    """Each kind of registers beyond the general ones, with the owner and the type of its note, in
    the order of the notes."""
    for regset in machine.regsets:
        yield regset.kind, regset.owner, regset.note
        if regset.kind is RegisterKind.XSTATE:
            yield RegisterKind.KERNEL_XSTATE, GCOREFS, NT_GCOREFS_XSTATE


class RegsetNotes(NamedTuple):
    """The notes of one thread's registers, without the general registers."""

    size: int
    form: _RegisterForm
    data: bytes | Packed

    def unpack(self) -> bytes:
        data = self.data
        return self.form.fill_in(data if isinstance(data, bytes) else data.unpack())


def regset_notes(machine: Machine, registers: Iterable[Registers]) -> list[RegsetNotes]:
    """The notes of each thread in turn."""
    found = []
    shape = None
    for each in registers:
        if each.shape is not shape:  # most threads have the shape of the one before
            shape = each.shape
            form = _register_form(machine, shape)
            size = form.size
        found.append(RegsetNotes(size, form, each.data))
    return found

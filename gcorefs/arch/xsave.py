"""The place of a thread's registers in NT_X86_XSTATE, and how they are moved for gdb.

NT_X86_XSTATE is an XSAVE area in standard format (Intel SDM vol. 1, 13.4): 512 bytes of x87 and
SSE, 64 bytes of header, and then each further component at the offset that CPUID leaf 0xD gives.
Processors differ in these offsets.  gdb does not read NT_X86_XSAVE_LAYOUT.  It guesses:

- gdb 12 and 13 assume Intel's offsets, and the size on Intel's processors without AMX
  (gdbsupport/x86-xstate.h, X86_XSTATE_SIZE).  They do not read a smaller note at all
  (gdb/corelow.c, get_core_register_section); 32-bit cores then have no x87 and SSE either.
- gdb 14 to 18 know the same sizes, and AMD's 2,440 bytes with PKRU (gdb/i387-tdep.c,
  i387_guess_xsave_layout).  With any other size they read only SSE.

So `standard` is the one layout that all of them read correctly: Intel's layout, with the size that
gdb 13 expects.  AMD's processors have another layout, and so has every processor with AMX.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from gcorefs.arch import cpuid as processor

NT_X86_XSTATE = 0x202
"""include/uapi/linux/elf.h"""

_LEGACY_AND_HEADER = 576
_SW_RESERVED = slice(464, 472)
"""The features that the kernel saves, as in XCR0.  The other 40 bytes up to 512 are zeros
(arch/x86/kernel/ptrace.c, update_regset_xstate_info)."""
_XSTATE_BV = slice(512, 520)
"""The features that are not in their initial state in this thread."""
_X87_AND_SSE = 0b11


class Component(NamedTuple):
    """The registers of one feature: a row of NT_X86_XSAVE_LAYOUT."""

    number: int
    size: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.size


_AVX, _BNDREGS, _BNDCSR, _OPMASK, _ZMM_HI256, _HI16_ZMM, _PKRU, _APX = 2, 3, 4, 5, 6, 7, 9, 19
_MPX = (_BNDREGS, _BNDCSR)
# APX uses the place of MPX, and no processor has both (Intel APX specification, 3.1.4.2).
_INTEL = (
    Component(_AVX, 256, 576),
    Component(_BNDREGS, 64, 960),
    Component(_BNDCSR, 64, 1024),
    Component(_OPMASK, 64, 1088),
    Component(_ZMM_HI256, 512, 1152),
    Component(_HI16_ZMM, 1024, 1664),
    Component(_PKRU, 8, 2688),
    Component(_APX, 128, 960),
)
_SIZES = (
    ((_PKRU,), 2696),
    ((_OPMASK, _ZMM_HI256, _HI16_ZMM), 2688),
    (_MPX, 1088),
    ((_AVX,), 832),
)
"""gdb's X86_XSTATE_SIZE: the first row with any existing feature gives the size."""


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


def xsave_components(xstate: bytes) -> list[int]:
    """The extended features in `xstate`, which the XSAVE_LAYOUT note describes.

    Features 0 and 1, x87 and SSE, are in the legacy area, and the note does not describe them.
    """
    if len(xstate) < _LEGACY_AND_HEADER:
        return []
    mask = int.from_bytes(xstate[_SW_RESERVED], "little")
    return [number for number in range(2, 63) if mask >> number & 1]


@dataclass(frozen=True, slots=True)
class XsaveLayout:
    """One layout of the registers of a thread in its state."""

    size: int
    """Bytes of the whole state."""
    features: int
    """The features that have a place in it, as in bytes 464..471."""
    components: tuple[Component, ...]
    """The places of the features, in the order of their numbers."""

    @classmethod
    def of(cls, state: bytes, cpuid: Callable[[int, int], Sequence[int]]) -> "XsaveLayout | None":
        """The kernel's layout, from a state that PTRACE_GETREGSET returned; None if that is not an
        XSAVE area.  `cpuid` gives eax to edx of a leaf and a subleaf; its errors are passed on."""
        if len(state) < _LEGACY_AND_HEADER:
            return None
        numbers = xsave_components(state)
        return cls(
            len(state),
            int.from_bytes(state[_SW_RESERVED], "little"),
            tuple(Component(number, *cpuid(0xD, number)[:2]) for number in numbers),
        )

    def standard(self) -> "XsaveLayout":
        """The layout that every gdb knows, with those of these features that have a place in it."""
        held = {
            component.number: component.size
            for component in self.components
            if component.offset >= _LEGACY_AND_HEADER and component.end <= self.size
        }
        found = [each for each in _INTEL if held.get(each.number) == each.size]
        numbers = {each.number for each in found}
        if numbers.intersection(_MPX):
            found = [each for each in found if each.number != _APX]
        size = next(
            (size for some, size in _SIZES if numbers.intersection(some)), _LEGACY_AND_HEADER
        )
        components = tuple(each for each in found if each.end <= size)
        features = _bits(each.number for each in components)
        return XsaveLayout(size, features | self.features & _X87_AND_SSE, components)


def _between(taken: Iterable[slice], size: int) -> Iterator[slice]:
    """The rest of `size` bytes."""
    end = 0
    for each in sorted(taken, key=lambda each: each.start):
        if end < each.start:
            yield slice(end, each.start)
        end = max(end, each.stop)
    if end < size:
        yield slice(end, size)


def _moves(kernel: XsaveLayout, written: XsaveLayout) -> Iterator[tuple[slice, slice]]:
    """Sources and targets, in the order of `written`.  Parts that lie together in both layouts are
    one move."""
    offsets = {component.number: component.offset for component in kernel.components}
    source, to, length = 0, 0, _LEGACY_AND_HEADER
    for component in sorted(written.components, key=lambda component: component.offset):
        next_source = offsets[component.number]
        if (source + length, to + length) == (next_source, component.offset):
            length += component.size
        else:
            yield slice(source, source + length), slice(to, to + length)
            source, to, length = next_source, component.offset, component.size
    yield slice(source, source + length), slice(to, to + length)


class Conversion:
    """Moves the components of states from the kernel's layout to another one.

    A reader that wants the kernel's bytes can move them back: XsaveAccount has all facts for that.
    """

    def __init__(self, kernel: XsaveLayout, written: XsaveLayout) -> None:
        """Every component of `written` is also in `kernel`, with the same size."""
        self.kernel = kernel
        self.written = written
        self._kernel_features = kernel.features.to_bytes(8, "little")
        self._written_features = written.features.to_bytes(8, "little")
        self._moves = [*_moves(kernel, written)]
        # A state in the layout `written`: parts of the original, and zeros between them.
        self._pieces: list[slice | bytes] = []
        end = 0
        for source, to in self._moves:
            self._pieces += [bytes(to.start - end), source]
            end = to.stop
        self._pieces.append(bytes(written.size - end))
        left = _between([source for source, _ in self._moves], kernel.size)
        self._left = [(each, bytes(each.stop - each.start)) for each in left]

    def fits(self, state: bytes) -> bool:
        """True if `state` is in the kernel's layout."""
        return len(state) == self.kernel.size and state[_SW_RESERVED] == self._kernel_features

    def holds(self, state: bytes) -> bool:
        """True if the move of a state in the kernel's layout loses nothing."""
        return all(state[each] == zeros for each, zeros in self._left) and (
            self.written.features == self.kernel.features
            or state[_XSTATE_BV] == self._in_use(state)
        )

    def apply(self, state: bytes) -> bytes:
        """A state in the kernel's layout, moved to the other layout."""
        pieces = [piece if isinstance(piece, bytes) else state[piece] for piece in self._pieces]
        moved = b"".join(pieces)
        if self.written.features == self.kernel.features:
            return moved
        return b"".join(
            (moved[:464], self._written_features, moved[472:512], self._in_use(state), moved[520:])
        )

    def _in_use(self, state: bytes) -> bytes:
        """XSTATE_BV without the features that are not written."""
        in_use = int.from_bytes(state[_XSTATE_BV], "little") & self.written.features
        return in_use.to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class XsaveAccount:
    """The facts in the core's note about its NT_X86_XSTATE notes."""

    kernel: XsaveLayout
    written: XsaveLayout
    kept: int = 0
    """The number of threads that have the kernel's bytes too, in a separate note."""

    def facts(self) -> dict[str, Any]:
        return {
            "layout": "kernel" if self.written == self.kernel else "standard",
            "size": self.written.size,
            "kernel_size": self.kernel.size,
            "kernel_features": f"{self.kernel.features:#x}",
            "kernel_components": [list(component) for component in self.kernel.components],
            "kept": self.kept,
        }


@lru_cache
def _to_standard(kernel: XsaveLayout) -> Conversion | None:
    """None if nothing must be moved."""
    standard = kernel.standard()
    return None if standard == kernel else Conversion(kernel, standard)


class XStates:
    """Takes the states of the threads of one process, and decides how they are written.

    All have one layout: the kernel fixes its size and features when it boots.
    """

    def __init__(self, is_raw: bool, cpuid: Callable[[int, int], Sequence[int]]) -> None:
        """`is_raw`: the states stay in the kernel's layout.  `cpuid`: see XsaveLayout.of."""
        self._is_raw = is_raw
        self._cpuid = cpuid
        self._is_known = False
        self._kernel: XsaveLayout | None = None
        self._conversion: Conversion | None = None  # None if nothing must be moved

    @classmethod
    def of_this_processor(cls, is_raw: bool) -> "XStates":
        return cls(is_raw, processor.cpuid)

    def take(self, state: bytes) -> tuple[bytes, bytes]:
        """The bytes for NT_X86_XSTATE of a thread.  Also the kernel's bytes if these cannot be made
        again from the former, else nothing: AMX tiles have no place in the standard layout."""
        if not self._is_known:
            self._learn(state)
        conversion = self._conversion
        if conversion is None or not conversion.fits(state):
            return state, b""
        return conversion.apply(state), b"" if conversion.holds(state) else state

    def _learn(self, state: bytes) -> None:
        self._is_known = True
        try:
            self._kernel = kernel = XsaveLayout.of(state, self._cpuid)
        except OSError:  # the system does not allow us to execute code from a memfd
            return
        if kernel is not None and not self._is_raw:
            self._conversion = _to_standard(kernel)

    def account(self, kept: int) -> XsaveAccount | None:
        """None if no state was taken, or if the layout is not known."""
        if self._kernel is None:
            return None
        conversion = self._conversion
        return XsaveAccount(
            self._kernel, self._kernel if conversion is None else conversion.written, kept
        )

"""Where the registers of a thread lie in NT_X86_XSTATE, and how they are moved for gdb.

NT_X86_XSTATE is an XSAVE area in standard format (Intel SDM vol. 1, 13.4): 512 bytes of x87 and
SSE, 64 bytes of header, and behind them each further component at the offset that CPUID leaf 0xD
tells.  Processors differ in these offsets.  gdb does not read NT_X86_XSAVE_LAYOUT.  It guesses:

- gdb 12 and 13 take Intel's offsets, and the size that Intel's processors without AMX have
  (gdbsupport/x86-xstate.h, X86_XSTATE_SIZE).  A smaller note is not read at all
  (gdb/corelow.c, get_core_register_section); 32-bit cores then have no x87 and SSE either.
- gdb 14 to 18 know the same sizes, and AMD's 2,440 bytes with PKRU (gdb/i387-tdep.c,
  i387_guess_xsave_layout).  Of any other size they read SSE alone.

So `standard` is the one layout that all of them read right: Intel's, of the size that gdb 13
expects.  AMD's processors have another one, and so has every processor with AMX.
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
"""The features that the kernel saves, as XCR0 has them; the other 40 bytes up to 512 are zeros
(arch/x86/kernel/ptrace.c, update_regset_xstate_info)."""
_XSTATE_BV = slice(512, 520)
"""The features of which the thread has something else than the initial state."""
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
# APX has the place of MPX, and no processor has both (Intel APX specification, 3.1.4.2).
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
"""gdb's X86_XSTATE_SIZE: the first of which any feature is there."""


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


def xsave_components(xstate: bytes) -> list[int]:
    """The extended features whose place in `xstate` the XSAVE_LAYOUT note describes.

    Features 0 and 1, x87 and SSE, lie in the legacy area and are not described.
    """
    if len(xstate) < _LEGACY_AND_HEADER:
        return []
    mask = int.from_bytes(xstate[_SW_RESERVED], "little")
    return [number for number in range(2, 63) if mask >> number & 1]


@dataclass(frozen=True, slots=True)
class XsaveLayout:
    """One way in which the registers of a thread lie in its state."""

    size: int
    """Bytes of the whole state."""
    features: int
    """Those that it has a place for, as bytes 464..471 say."""
    components: tuple[Component, ...]
    """Their places, in the order of their numbers."""

    @classmethod
    def of(cls, state: bytes, cpuid: Callable[[int, int], Sequence[int]]) -> "XsaveLayout | None":
        """The kernel's, of a state as it came from PTRACE_GETREGSET; None where it is no XSAVE
        area.  Raises what `cpuid` does, which tells eax to edx of a leaf and a subleaf."""
        if len(state) < _LEGACY_AND_HEADER:
            return None
        numbers = xsave_components(state)
        return cls(
            len(state),
            int.from_bytes(state[_SW_RESERVED], "little"),
            tuple(Component(number, *cpuid(0xD, number)[:2]) for number in numbers),
        )

    def standard(self) -> "XsaveLayout":
        """The layout that every gdb knows, for as many of these features as it has room for."""
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
    """What is left of `size` bytes."""
    end = 0
    for each in sorted(taken, key=lambda each: each.start):
        if end < each.start:
            yield slice(end, each.start)
        end = max(end, each.stop)
    if end < size:
        yield slice(end, size)


def _moves(kernel: XsaveLayout, written: XsaveLayout) -> Iterator[tuple[slice, slice]]:
    """From where to where, in the order of `written`: what lies together in both is one move."""
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

    Whoever wants the kernel's bytes back moves them the other way: XsaveAccount has all of it.
    """

    def __init__(self, kernel: XsaveLayout, written: XsaveLayout) -> None:
        """`written` has no component that `kernel` has not, and each as long as there."""
        self.kernel = kernel
        self.written = written
        self._kernel_features = kernel.features.to_bytes(8, "little")
        self._written_features = written.features.to_bytes(8, "little")
        self._moves = [*_moves(kernel, written)]
        # A state as it is written: parts of it as it came, and zeros between them.
        self._pieces: list[slice | bytes] = []
        end = 0
        for source, to in self._moves:
            self._pieces += [bytes(to.start - end), source]
            end = to.stop
        self._pieces.append(bytes(written.size - end))
        left = _between([source for source, _ in self._moves], kernel.size)
        self._left = [(each, bytes(each.stop - each.start)) for each in left]

    def fits(self, state: bytes) -> bool:
        """True where `state` is in the kernel's layout."""
        return len(state) == self.kernel.size and state[_SW_RESERVED] == self._kernel_features

    def holds(self, state: bytes) -> bool:
        """True where nothing of a state in the kernel's layout is lost by moving it."""
        return all(state[each] == zeros for each, zeros in self._left) and (
            self.written.features == self.kernel.features
            or state[_XSTATE_BV] == self._in_use(state)
        )

    def apply(self, state: bytes) -> bytes:
        """A state in the kernel's layout as it is written."""
        pieces = [piece if isinstance(piece, bytes) else state[piece] for piece in self._pieces]
        moved = b"".join(pieces)
        if self.written.features == self.kernel.features:
            return moved
        return b"".join(
            (moved[:464], self._written_features, moved[472:512], self._in_use(state), moved[520:])
        )

    def _in_use(self, state: bytes) -> bytes:
        """XSTATE_BV without what is not written."""
        in_use = int.from_bytes(state[_XSTATE_BV], "little") & self.written.features
        return in_use.to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class XsaveAccount:
    """What the core's note says of its NT_X86_XSTATE notes."""

    kernel: XsaveLayout
    written: XsaveLayout
    kept: int = 0
    """Threads that have the kernel's bytes too, in a note of their own."""

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
    """None where nothing has to be moved."""
    standard = kernel.standard()
    return None if standard == kernel else Conversion(kernel, standard)


class XStates:
    """Takes the states of the threads of one process, and says how they are written.

    All have one layout: the kernel fixes its size and features when it boots.
    """

    def __init__(self, is_raw: bool, cpuid: Callable[[int, int], Sequence[int]]) -> None:
        """`is_raw`: they are written as the kernel gives them.  `cpuid`: XsaveLayout.of."""
        self._is_raw = is_raw
        self._cpuid = cpuid
        self._is_known = False
        self._kernel: XsaveLayout | None = None
        self._conversion: Conversion | None = None  # None where nothing has to be moved

    @classmethod
    def of_this_processor(cls, is_raw: bool) -> "XStates":
        return cls(is_raw, processor.cpuid)

    def take(self, state: bytes) -> tuple[bytes, bytes]:
        """What NT_X86_XSTATE of a thread has, and the kernel's bytes where these do not come
        back from it, else none: AMX tiles, for one, have no place in the standard layout."""
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
        except OSError:  # executing from a memfd is not allowed here
            return
        if kernel is not None and not self._is_raw:
            self._conversion = _to_standard(kernel)

    def account(self, kept: int) -> XsaveAccount | None:
        """None where no state was taken, or its layout is not known."""
        if self._kernel is None:
            return None
        conversion = self._conversion
        return XsaveAccount(
            self._kernel, self._kernel if conversion is None else conversion.written, kept
        )

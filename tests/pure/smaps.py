"""Texts of /proc/PID/smaps, made from a model, as the kernel writes them.

fs/proc/task_mmu.c: show_map_vma, show_smap.  The keys differ between versions.  These are the keys
of 6.1 and of 6.18, and some of a future kernel.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from gcorefs.elfcore.elf import PF_R, PF_W, PF_X
from gcorefs.elfcore.smaps import vm_flags
from gcorefs.elfcore.vma import Kind, Pages, Vma, VmFlag

_BEFORE = "Size KernelPageSize MMUPageSize Rss Pss Pss_Dirty Shared_Clean Shared_Dirty"
_BETWEEN = "AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb Private_Hugetlb"
_PRIVATE = "Private_Clean Private_Dirty Referenced"
KEYS = {
    "6.1": (
        f"{_BEFORE} {_PRIVATE} Anonymous LazyFree {_BETWEEN} Swap SwapPss Locked "
        "THPeligible"
    ),
    "6.18": (
        f"{_BEFORE} {_PRIVATE} Anonymous KSM LazyFree {_BETWEEN} Swap SwapPss Locked "
        "THPeligible ProtectionKey"
    ),
    "later": (
        f"{_BEFORE} Anonymous_Pss {_PRIVATE} Anonymous KSM SwapCached {_BETWEEN} Swap "
        "SwapPss Locked New"
    ),
}  # fmt: skip

# proc(5), VmFlags; "??" is a bit without letters in the kernel.
FLAGS = [
    "rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "pf", "lo", "io", "sr", "rr", "dc", "de",
    "ac", "nr", "ht", "sf", "nl", "ar", "wf", "dd", "sd", "mm", "hg", "nh", "mg", "bt", "mt", "um",
    "uw", "ui", "ss", "sl", "lf", "dp", "gu", "??",
]  # fmt: skip


def permissions(vma: Vma, shared: bool) -> str:
    letters = ((PF_R, "r"), (PF_W, "w"), (PF_X, "x"))
    return "".join(c if vma.flags & bit else "-" for bit, c in letters) + "-ps"[1 + shared]


@dataclass(frozen=True)
class Shape:
    """The variations of a text that describes the same mappings."""

    keys: str = "6.18"
    shared: bool = False


def entry(vma: Vma, shape: Shape = Shape()) -> bytes:
    """One mapping, byte for byte as show_smap writes it."""
    head = b"%08x-%08x %s %08x %s %d " % (
        vma.start, vma.end, permissions(vma, shape.shared).encode(), vma.offset,
        vma.dev.encode(), vma.inode,
    )  # fmt: skip
    if vma.name:
        # show_map_vma: seq_setwidth(25 + sizeof(void *) * 6 - 1), then seq_pad(' ').
        head = head.ljust(72) + b" " + vma.name
    assert vma.pages.anonymous is not None
    assert vma.pages.swapped is not None
    assert vma.pages.shared is not None
    shared = vma.pages.shared // 1024
    swap_shared = min(shared // 2, vma.pages.swapped // 1024)
    clean = (shared - swap_shared) // 3
    values = {
        "Size": vma.size // 1024,
        "Shared_Clean": clean,
        "Shared_Dirty": shared - swap_shared - clean,
        "Anonymous": vma.pages.anonymous // 1024,
        "Swap": vma.pages.swapped // 1024,
        "SwapPss": vma.pages.swapped // 1024 - swap_shared,
    }
    lines = [head]
    for key in KEYS[shape.keys].split():
        unit = b"" if key in ("THPeligible", "ProtectionKey") else b" kB"
        lines.append(f"{key}:".ljust(16).encode() + b"%8d" % values.get(key, 7) + unit)
    lines.append(
        b"VmFlags: "
        + b"".join(flag.encode() + b" " for flag in FLAGS if vm_flags([flag]) & vma.vm_flags)
    )
    return b"\n".join(lines) + b"\n"


def make_vma(start: int = 0x1000, end: int = 0x3000, **fields: object) -> Vma:
    defaults: dict[str, object] = {
        "flags": PF_R, "offset": 0, "dev": "00:00", "inode": 0, "name": b"", "anonymous": 0,
        "swapped": 0, "shared": 0, "vm_flags": VmFlag.NONE,
    }  # fmt: skip
    values: dict[str, Any] = {**defaults, **fields}
    kind = Kind(*(values.pop(name) for name in ("flags", "dev", "inode", "name", "vm_flags")))
    offset = values.pop("offset")
    return Vma(start, end, kind, offset, Pages(**values))


# seq_path leaves any byte of a path but NUL, and writes a newline as \012.
_path_bytes = st.binary(max_size=60).map(
    lambda name: name.replace(b"\0", b"").replace(b"\n", b"\\012")
)
_known_names = st.sampled_from((
    b"[heap]", b"[stack]", b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[vsyscall]", b"[uprobes]",
    b"[anon:a b]", b"[anon_shmem:x]", b"anon_inode:[io_uring]", b"socket:[4711]", b"/ (deleted)",
    b"/memfd: Swap:        7 kB (deleted)", b"/a  b ", b"/dev/zero (deleted)",
    b"/SYSV00000000 (deleted)", b"/[aio] (deleted)", b"/anon_hugepage (deleted)",
    b"//toolong", b"/Anonymous: 0 kB", b"/1000-2000 r--p 00000000 00:00 0 [vdso]",
))  # fmt: skip
names = st.one_of(st.just(b""), _known_names, _path_bytes.map(lambda name: b"/" + name))

_HIGHEST_PAGE = (1 << 52) - 1
_kilobytes = st.integers(0, 1 << 52).map(lambda count: count * 1024)


@st.composite
def vma_lists(draw: st.DrawFn, max_size: int = 6) -> list[Vma]:
    """Mappings in order, some adjacent, up to the last page boundary that %lx can print."""
    borders = draw(st.lists(st.integers(0, _HIGHEST_PAGE), max_size=2 * max_size, unique=True))
    borders.sort()
    vmas = []
    for index in range(len(borders) - 1):
        if draw(st.booleans()):
            vmas.append(
                make_vma(
                    borders[index] << 12,
                    borders[index + 1] << 12,
                    flags=draw(st.integers(0, 7)),
                    offset=draw(st.integers(0, (1 << 52) - 1)) << 12,
                    dev=draw(st.from_regex(r"\A[0-9a-f]{2,3}:[0-9a-f]{2,5}\Z")),
                    inode=draw(st.integers(0, (1 << 64) - 1)),
                    name=draw(names),
                    anonymous=draw(_kilobytes),
                    swapped=draw(_kilobytes),
                    shared=draw(_kilobytes),
                    vm_flags=vm_flags(draw(st.lists(st.sampled_from(FLAGS), max_size=8))),
                )
            )
    return vmas


shapes = st.builds(Shape, st.sampled_from(sorted(KEYS)), st.booleans())

"""The names under which the dynamic linker knows the libraries of a process.

A debugger looks for a library by the name in its struct link_map (link.h of glibc), and that is
seldom the path in maps: /lib is a link to /usr/lib, and libfoo.so.1 one to libfoo.so.1.2.3.
"""

import struct
from collections.abc import Iterator

from gcorefs.elfcore import program
from gcorefs.elfcore.elf import ELF32, ELF64
from gcorefs.kernel.proc import address_space

_MOST = 10_000
_MOST_BYTES = 1 << 20
"""Of all names together."""
_PATH_MAX = 4096


def link_names(tid: int) -> list[tuple[bytes, int]]:
    """Each name, and an address in a mapping of its file (its dynamic section).

    All is memory of the process, which may hold anything: then there are fewer.  OSError.
    """
    is_32 = address_space.is_32_bit(tid)
    form = ELF32 if is_32 else ELF64
    auxv = program.values(address_space.read_mm(tid, "auxv"), form)
    table_at = auxv.get(program.AT_PHDR, 0)
    count = min(auxv.get(program.AT_PHNUM, 0), program.MOST_HEADERS)
    table = address_space.memory(tid, table_at, count * form.phdr_size)
    module = program.module_of(table_at, table, form)
    if module is None:
        return []
    for start, _ in module.ranges(program.PT_DYNAMIC):
        data = address_space.memory(tid, start, 2 * form.word_size * program.MOST_DYNAMIC)
        if debug := program.values(data, form).get(program.DT_DEBUG, 0):
            return [*_names(tid, debug, struct.Struct("<4I" if is_32 else "<4Q"))]
    return []


def _names(tid: int, debug: int, words: struct.Struct) -> Iterator[tuple[bytes, int]]:
    """struct r_debug begins with r_version and r_map; struct link_map with l_addr, l_name, l_ld and
    l_next."""
    data = address_space.memory(tid, debug, words.size)
    link_map = words.unpack(data)[1] if len(data) == words.size else 0
    seen: set[int] = set()
    left = _MOST_BYTES
    while link_map and link_map not in seen and len(seen) < _MOST:
        seen.add(link_map)
        data = address_space.memory(tid, link_map, words.size)
        if len(data) < words.size:
            return
        _, name, dynamic, link_map = words.unpack(data)
        # The name may end close to memory that cannot be read.
        text = address_space.memory(tid, name, _PATH_MAX) if name else b""
        if b"\0" in text and text.startswith(b"/"):
            found = text.partition(b"\0")[0]
            left -= len(found)
            if left < 0:
                return
            yield found, dynamic

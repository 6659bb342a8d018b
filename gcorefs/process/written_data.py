"""The variables of programs and libraries that the process has written.

What a core does not have, a debugger takes from the program's file.  That is right for a page that
nobody has written.  For any other the file has the value that a variable had at the start of the
program, and gdb shows that without a warning.

What the dynamic linker alone writes, and protects then (.data.rel.ro), would be a megabyte more.
"""

from collections.abc import Iterator, Sequence

from gcorefs.elfcore.elf import PF_W, PF_X
from gcorefs.elfcore.selection import Range
from gcorefs.elfcore.vma import Vma
from gcorefs.process.mapped_files import file_key
from gcorefs.process.pagemap import Pagemap


def written_data(vmas: Sequence[Vma], pagemap: Pagemap) -> Iterator[Range]:
    """The written pages of writable private mappings of files that have code, in address order.

    Other files are no concern of a debugger: a program may have mapped and written gigabytes."""
    programs = {file_key(vma) for vma in vmas if vma.has_file and vma.flags & PF_X}
    for vma in vmas:
        if not (vma.has_file and vma.is_written) or vma.kind.is_shared or vma.kind.is_hugetlb:
            continue
        if vma.flags & PF_W and file_key(vma) in programs:
            yield from zip(*pagemap.written(vma.start, vma.end), strict=True)

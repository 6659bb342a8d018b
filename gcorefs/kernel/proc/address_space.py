"""What /proc says of the address space of a process as a whole: auxv, coredump_filter, VmPTE.

proc_pid_auxv(5), core(5), proc_pid_status(5).
"""

from gcorefs import tuning
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.filter import DEFAULT
from gcorefs.kernel.proc import procfile, task_stat, task_status


def read_mm(tid: int, name: str) -> bytes:
    """A file of /proc/TID that tells of its memory, and is empty once that is gone.  ESRCH."""
    text = procfile.read(f"{tid}/{name}")
    if not text:
        raise without_text(tid, name)
    return text


def without_text(tid: int, name: str) -> OSError:
    """Why a file of /proc/TID that tells of its memory was empty: ESRCH or ENODATA.

    It is once that memory is gone, which execve(2) does too; then a second look finds text again.
    """
    path = f"{tid}/{name}"
    if task_stat.stat(tid).is_exiting or procfile.has_text(path):
        return procfile.gone(path)
    return procfile.empty(path)


def coredump_filter(tid: int) -> int:
    """Which mappings a core is to have (core(5)).  ESRCH.

    The kernel's default where it is built without core dumps, and nobody can set another.
    """
    try:
        return int(read_mm(tid, "coredump_filter"), 16)
    except FileNotFoundError:
        return DEFAULT


def is_32_bit(tid: int) -> bool:
    """True where the program is a 32-bit one, as the auxiliary vector that it was given shows.

    Pairs of words: in 64-bit ones a type fills the lower half of its word only.  ESRCH.
    """
    first = read_mm(tid, "auxv")[:8]
    return int.from_bytes(first, "little") >> 32 != 0


def has_few_runs(tid: int) -> bool:
    """True where page tables are many, and hardly filled or nearly full: there is much to be
    looked through for few runs of pages.  Each table is a page, and has an
    entry for each page under it."""
    found = task_status.status(tid)
    if "VmPTE" not in found:  # killed: whoever reads its memory will be told
        return False
    tables, resident = (int(found[key].split()[0]) for key in ("VmPTE", "VmRSS"))  # in kB
    if tables <= tuning.now().many_tables:
        return False
    return resident < tables * _HARDLY_FILLED or resident > tables * _NEARLY_FULL


_ENTRIES = PAGE_SIZE // 8
_HARDLY_FILLED = _ENTRIES // 4
_NEARLY_FULL = _ENTRIES * 7 // 8

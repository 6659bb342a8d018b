"""One inode is one process under one policy, as long as its bytes do not change under it.

splice(2) and private mmap(2) read through the inode's page cache even where read(2) does
not, so two handles of different content on one inode would mix their bytes.  Hence:
- another process under the same pid is another inode (told by its start time);
- a stop that was let go while handles are open is never joined: its inode is retired, and
  the next look-up makes a new one, with a new number and a new stop.

One who may not open a process is shown another inode of it while somebody holds it: the kernel has
one size for all users of an inode, and reads go by it.

A listing looks at no process.  It gives a number to a pid, and the process that the next
look-up finds there has that number from then on.  Nothing can be read under it before: names
and attributes expire at once (entries.py), so the kernel looks a name up before it uses
anything of it (fs/fuse/dir.c, fuse_dentry_revalidate).
"""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass

from pyfuse3 import FUSEError

from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.listing import Look
from gcorefs.policy import Policy

# Below 2^22 are the pids (PID_MAX_LIMIT, include/linux/threads.h); above, a serial number.
_PID_BITS = 22
_PID_MASK = (1 << _PID_BITS) - 1


@dataclass(slots=True)
class Listed:
    """A number that stands for a pid, and for no process yet."""

    number: int
    policy: Policy
    lookups: int = 0
    """How many references the kernel holds (FUSE_FORGET)."""
    is_retired: bool = False
    """True where no listing gives it any more."""
    seen: None = None  # nobody has looked at it
    shown: None = None

    @property
    def pid(self) -> int:
        return self.number & _PID_MASK


@dataclass(slots=True)
class Inode:
    number: int
    process: Process
    policy: Policy
    lookups: int = 0
    """How many references the kernel holds (FUSE_FORGET)."""
    core: SharedCore | None = None
    is_outsiders: bool = False
    """For those who may not open it: it never has a core."""
    seen: Look | None = None
    """The process as it was when it was last looked at.  A listing repeats it: splice(2) goes by
    the size that the kernel was told last."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def shown(self) -> SharedCore | None:
        """The core whose size and time stat(2) tells.  None once it is over and no longer open:
        the next open(2) makes another one."""
        core = self.core
        return None if core is None or (core.is_over and not core.is_open) else core

    @property
    def is_retired(self) -> bool:
        """True where handles hold bytes of a stop that nobody joins any more."""
        core = self.core
        return core is not None and (core.is_over or core.is_past) and core.is_open


@dataclass(slots=True)
class Reference:
    """A reference that the kernel is about to be given."""

    inode: Inode
    is_kept: bool = False

    def keep(self) -> None:
        self.is_kept = True


class View:
    """What stands for the processes, by pid, where their cores are taken with one policy."""

    def __init__(self, policy: Policy, inodes: "Inodes") -> None:
        self.policy = policy
        self._inodes = inodes
        self._current: dict[int, Inode | Listed] = {}
        self._outsiders: dict[int, Inode] = {}

    def get(self, process: Process) -> Inode:
        """The inode that stands for a core of this process now."""
        known = self._current.get(process.pid)
        if isinstance(known, Inode) and known.process == process and not known.is_retired:
            return known
        if isinstance(known, Listed):
            inode = Inode(known.number, process, self.policy, known.lookups)
            self._inodes.replace(inode)
        else:
            inode = Inode(self._inodes.new_number(process.pid), process, self.policy)
        self._current[process.pid] = inode
        return inode

    def outsiders(self, process: Process) -> Inode:
        """The inode that stands for the same before those who may not open it."""
        known = self._outsiders.get(process.pid)
        if known is None or known.process != process:
            number = self._inodes.new_number(process.pid)
            known = Inode(number, process, self.policy, is_outsiders=True)
            self._outsiders[process.pid] = known
        return known

    def core_of(self, process: Process) -> SharedCore | None:
        """The core whose size the inode of this process shows."""
        known = self._current.get(process.pid)
        if not isinstance(known, Inode) or known.process != process or known.is_retired:
            return None
        return known.shown

    def listed(self, pid: int) -> Inode | Listed:
        """What a listing says stands for a pid, with one more reference of the kernel to it."""
        known = self._current.get(pid)
        if known is None or known.is_retired:
            known = self._current[pid] = Listed(self._inodes.new_number(pid), self.policy)
        self._inodes.hold(known)
        return known

    def seek(self, pid: int) -> None:
        """A look-up begins: no listing gives the same number before it is known whose it is.

        The kernel takes attributes in the order in which it asked for them, and of those asked
        for at one time the first (fs/fuse/inode.c, fuse_change_attributes_i).  So a listing
        answered during a look-up could leave a file that is about to be opened without owner
        and size.
        """
        known = self._current.get(pid)
        if isinstance(known, Listed):
            known.is_retired = True

    @contextlib.contextmanager
    def held(self, process: Process, is_outsider: bool = False) -> Iterator[Reference]:
        """One more reference of the kernel to the inode of `process`, if it is kept.

        Counted from the start: until the reply is made nothing else may forget the inode.
        """
        reference = Reference(self.outsiders(process) if is_outsider else self.get(process))
        self._inodes.hold(reference.inode)
        try:
            yield reference
        finally:
            if not reference.is_kept:
                self._inodes.forget(reference.inode.number, 1)

    def take_back(self, inode: Inode | Listed) -> None:
        """The listing was not sent to the kernel."""
        self._inodes.forget(inode.number, 1)

    def drop(self, inode: Inode | Listed) -> None:
        """The kernel has forgotten it."""
        for table in (self._current, self._outsiders):
            if table.get(inode.pid) is inode:
                del table[inode.pid]


class Inodes:
    """What the kernel has references to, by number, in all views of one mount."""

    def __init__(self) -> None:
        self._by_number: dict[int, Inode | Listed] = {}
        self._views: dict[Policy, View] = {}
        self._serial = 0

    def view(self, policy: Policy) -> View:
        """The processes under `policy`."""
        return self._views.setdefault(policy, View(policy, self))

    def __getitem__(self, number: int) -> Inode:
        """KeyError for one that the kernel has forgotten.

        ESTALE for one that was never looked up: whoever comes by it made up a file handle
        (open_by_handle_at(2)).
        """
        inode = self._by_number[number]
        if isinstance(inode, Listed):
            raise FUSEError(errno.ESTALE)
        return inode

    def new_number(self, pid: int) -> int:
        """A number that never stood for anything."""
        self._serial += 1
        return (self._serial << _PID_BITS) | pid

    def hold(self, inode: Inode | Listed) -> None:
        """The kernel has one more reference."""
        self._by_number[inode.number] = inode
        inode.lookups += 1

    def replace(self, inode: Inode) -> None:
        """`inode` has its number from now on, and the references to what was only listed."""
        self._by_number[inode.number] = inode

    def forget(self, number: int, lookups: int) -> None:
        """The kernel has so many references less."""
        inode = self._by_number[number]
        inode.lookups -= lookups
        if inode.lookups <= 0:
            del self._by_number[number]
            self._views[inode.policy].drop(inode)

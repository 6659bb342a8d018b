"""The inodes of the processes.  An inode is one process under one policy, and has the same bytes as
long as it exists.

splice(2) and a private mmap(2) read through the page cache of the inode, even if read(2) does not.
So two handles with different bytes need two inodes, or their bytes would mix:
- If another process gets the same pid, it gets another inode.  Its start time tells the two apart.
- If a stop is let go while handles are open, nobody joins it any more.  Its inode is retired, and
  the next look-up makes a new inode, with a new number and a new stop.

A user who may not open a process sees another inode of it, an outsiders' inode, while somebody
holds the process.  The reason is that the kernel has one size for all users of an inode, and limits
their reads by it.

A listing looks at no process.  It gives a number to a pid, and the next look-up gives this number
to the process that has the pid.  Nobody can read under the number before that: names and attributes
expire at once (entries.py), so the kernel looks a name up before it uses the inode
(fs/fuse/dir.c, fuse_dentry_revalidate).
"""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass

from pyfuse3 import FUSEError

from gcorefs.kernel.proc.task_stat import Process
from gcorefs.look import Look
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.options import MountPolicy

# The lowest bits of a number are the pid, which is below 2^22 (PID_MAX_LIMIT,
# include/linux/threads.h).  The other bits are a serial number.
_PID_BITS = 22
_PID_MASK = (1 << _PID_BITS) - 1


@dataclass(slots=True)
class Listed:
    """A number that a listing has given to a pid.  It stands for no process yet."""

    number: int
    policy: MountPolicy
    lookups: int = 0
    """How many references the kernel has (FUSE_FORGET)."""
    is_retired: bool = False
    """True if no listing gives this number any more."""
    seen: None = None  # as for an Inode of a process that nobody has looked at
    shown: None = None

    @property
    def pid(self) -> int:
        return self.number & _PID_MASK


@dataclass(slots=True)
class Inode:
    """One process under one policy."""

    number: int
    process: Process
    policy: MountPolicy
    lookups: int = 0
    """How many references the kernel has (FUSE_FORGET)."""
    core: SharedCore | None = None
    is_outsiders: bool = False
    """True if it is for users who may not open the process.  Then it never has a core."""
    seen: Look | None = None
    """The process as the last look found it.  A listing repeats this, because splice(2) reads no
    further than the last size that the kernel was told."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def shown(self) -> SharedCore | None:
        """The core whose size and time stat(2) shows.  None if it is over and nobody has it open:
        the next open(2) makes another one."""
        core = self.core
        return None if core is None or (core.is_over and not core.is_open) else core

    @property
    def is_retired(self) -> bool:
        """True if handles are open whose stop nobody may join any more."""
        core = self.core
        return core is not None and (core.is_over or core.is_past) and core.is_open


@dataclass(slots=True)
class Reference:
    """A reference to an inode that the kernel gets with the next reply."""

    inode: Inode
    is_kept: bool = False

    def keep(self) -> None:
        self.is_kept = True


class View:
    """The inodes of all processes under one policy, by pid."""

    def __init__(self, policy: MountPolicy, inodes: "Inodes") -> None:
        self.policy = policy
        self._inodes = inodes
        self.directories = 0
        """How many directories show it."""
        self.is_dropped = False
        """True if nobody may look a process up in it any more."""
        self._current: dict[int, Inode | Listed] = {}
        self._outsiders: dict[int, Inode] = {}

    @property
    def size(self) -> int:
        """How many inodes there are."""
        return len(self._current) + len(self._outsiders)

    def get(self, process: Process) -> Inode:
        """The inode of this process.  A new one if there is none, or if the last one is retired."""
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
        """The inode of this process for users who may not open it."""
        known = self._outsiders.get(process.pid)
        if known is None or known.process != process:
            number = self._inodes.new_number(process.pid)
            known = Inode(number, process, self.policy, is_outsiders=True)
            self._outsiders[process.pid] = known
        return known

    def core_of(self, process: Process) -> SharedCore | None:
        """The core whose size the inode of this process shows; None if there is none."""
        known = self._current.get(process.pid)
        if not isinstance(known, Inode) or known.process != process or known.is_retired:
            return None
        return known.shown

    def listed(self, pid: int) -> Inode | Listed:
        """What a listing gives for a pid.  The kernel gets one more reference to it.

        ESTALE: no directory shows the view any more.  A descriptor of one that is forgotten can
        still be read, and nobody counts the names that it would give.
        """
        if not self.directories:
            raise FUSEError(errno.ESTALE)
        known = self._current.get(pid)
        if known is None or known.is_retired:
            known = self._current[pid] = Listed(self._inodes.new_number(pid), self.policy)
        self._inodes.hold(known)
        return known

    def seek(self, pid: int) -> None:
        """A look-up of `pid` begins.  Until it has found the process, no listing gives the number
        that the pid has now.

        The kernel ignores the attributes in a reply if it has taken other attributes of the inode
        since it sent the request (fs/fuse/inode.c, fuse_change_attributes_i).  So a listing that is
        answered during a look-up could leave a file without owner and size, just before somebody
        opens it.
        """
        known = self._current.get(pid)
        if isinstance(known, Listed):
            known.is_retired = True

    @contextlib.contextmanager
    def held(self, process: Process, is_outsider: bool = False) -> Iterator[Reference]:
        """Give the kernel one more reference to the inode of `process`, if the block keeps it.

        The reference counts from the beginning of the block: until the reply is made, no other
        request may forget the inode.  ESTALE: the view is dropped.
        """
        if self.is_dropped:
            raise FUSEError(errno.ESTALE)
        reference = Reference(self.outsiders(process) if is_outsider else self.get(process))
        self._inodes.hold(reference.inode)
        try:
            yield reference
        finally:
            if not reference.is_kept:
                self.take_back(reference.inode)

    def take_back(self, inode: Inode | Listed) -> None:
        """The kernel did not get this entry, so it has one reference less."""
        with contextlib.suppress(KeyError):  # it was forgotten meanwhile (Inodes.hide)
            self._inodes.forget(inode.number, 1)

    def drop_idle(self) -> list[int]:
        """Drop the inodes without a core.  Returns their numbers."""
        found = []
        for table in (self._current, self._outsiders):
            for inode in [*table.values()]:
                if isinstance(inode, Listed) or inode.core is None:
                    del table[inode.pid]
                    found.append(inode.number)
        self.is_dropped = not (self._current or self._outsiders)
        return found

    def drop(self, inode: Inode | Listed) -> None:
        """The kernel has forgotten it."""
        for table in (self._current, self._outsiders):
            if table.get(inode.pid) is inode:
                del table[inode.pid]


class Inodes:
    """All inodes that the kernel has references to, by number, in all views of one mount."""

    def __init__(self) -> None:
        self._by_number: dict[int, Inode | Listed] = {}
        self._views: dict[MountPolicy, View] = {}
        self._serial = 0

    def view(self, policy: MountPolicy) -> View:
        """The inodes under `policy`."""
        view = self._views.get(policy)
        if view is None:
            view = self._views[policy] = View(policy, self)
        return view

    def show(self, policy: MountPolicy) -> View:
        """The same for one more directory."""
        view = self.view(policy)
        view.directories += 1
        return view

    def hide(self, view: View) -> None:
        """There is one directory less.  If it was the last one, nobody finds an inode of the view
        any more by its name: forget all of them, except those with a core.

        The kernel may still know a number.  It looks the name up again before it uses the number
        (entries.py), and all else is ESTALE.
        """
        view.directories -= 1
        for each in [each for each in self._views.values() if not each.directories]:
            for number in each.drop_idle():
                self._by_number.pop(number, None)
            if each.is_dropped:
                del self._views[each.policy]

    def __getitem__(self, number: int) -> Inode:
        """KeyError: the kernel has forgotten it.  ESTALE: it was listed but never looked up.

        Only a caller that made up a file handle can have such a number (open_by_handle_at(2)).
        """
        inode = self._by_number[number]
        if isinstance(inode, Listed):
            raise FUSEError(errno.ESTALE)
        return inode

    def new_number(self, pid: int) -> int:
        """A number that was never used before."""
        self._serial += 1
        return (self._serial << _PID_BITS) | pid

    def hold(self, inode: Inode | Listed) -> None:
        """The kernel gets one more reference."""
        self._by_number[inode.number] = inode
        inode.lookups += 1

    def replace(self, inode: Inode) -> None:
        """From now on `inode` has the number that was only listed, and its references."""
        self._by_number[inode.number] = inode

    def forget(self, number: int, lookups: int) -> None:
        """The kernel has dropped `lookups` references.  KeyError: see `hide`."""
        inode = self._by_number[number]
        inode.lookups -= lookups
        if inode.lookups <= 0:
            del self._by_number[number]
            if (view := self._views.get(inode.policy)) is not None:
                view.drop(inode)

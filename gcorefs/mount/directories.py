"""The directories of the mount: the names in them, and their listings."""

import errno
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from functools import partial
from typing import Protocol

from pyfuse3 import ROOT_INODE, EntryAttributes, FUSEError, InodeT, RequestContext

from gcorefs.look import Look
from gcorefs.mount import entries, names
from gcorefs.mount.held import Held
from gcorefs.mount.inodes import Reference, View
from gcorefs.mount.limits import Kept, Limits
from gcorefs.mount.looks import Looks
from gcorefs.mount.nodes import OpenDirectory, OwnDirectory, OwnNode, Reply, reply_dots
from gcorefs.mount.pid_lists import PidLists
from gcorefs.mount.process_file import entry_of

_MOST_TRIES = 100


class ProcessDirectory(OwnDirectory):
    """The processes under the policy of `view`."""

    def __init__(self, view: View, looks: Looks, limits: Limits) -> None:
        self._view = view
        self._looks = looks
        self._limits = limits

    async def lookup(self, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """The file of a process, or the outsiders' file for a caller who may not open it."""
        view, looks = self._view, self._looks
        found = await _sought(name, view, looks, ctx)
        for _ in range(_MOST_TRIES):  # again if a stop began meanwhile
            core = view.core_of(found.process)
            is_outsider = found.is_name_only or not await looks.is_shown(core, ctx)
            with view.held(found.process, is_outsider) as reference:
                found = await looks.with_size(found, reference.inode, ctx)
                if reference.inode.shown not in (None, core):
                    continue
                return _answer(reference, found)
        raise FUSEError(errno.ESTALE)

    async def open_directory(self, ctx: RequestContext) -> OpenDirectory:
        with self._limits.others.kept(ctx.uid, 0) as kept:
            viewer = await self._looks.viewer(ctx)
            ask = partial(self._looks.pids, viewer, ctx.uid)
            return _OpenProcesses(self._view, ask, self._limits.pid_lists, kept)


_EXACT = 1 << 62
"""A bit above those of all numbers of processes (inodes.py)."""


class Directories(Protocol):
    """Directories that are made when their name is looked up."""

    def lookup(self, name: bytes, ctx: RequestContext) -> EntryAttributes | None:
        """None if there is no directory of this name."""


class Root(ProcessDirectory):
    """The root of the mount: the processes, and directories that can be reached but not listed."""

    number = ROOT_INODE

    def __init__(
        self,
        view: View,
        looks: Looks,
        limits: Limits,
        unlisted: Mapping[bytes, OwnNode],
        policies: Directories | None = None,
    ) -> None:
        super().__init__(view, looks, limits)
        self._unlisted = unlisted
        self._policies = policies

    async def lookup(self, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if name in self._unlisted:
            return self._unlisted[name].entry()
        if self._policies is not None and (entry := self._policies.lookup(name, ctx)) is not None:
            return entry
        return await super().lookup(name, ctx)


class ExactDirectory(OwnDirectory):
    """A look-up here stops a process, so that its size is exact.  No process is listed.

    Each user finds another inode of it.  For mkdir(2) and similar calls the kernel locks the
    directory before it asks for permission, and looks the name up (fs/namei.c, filename_create).
    All other look-ups in this inode wait until that one is answered.
    """

    number = 5

    def __init__(self, view: View, looks: Looks, held: Held, limits: Limits, is_on: bool) -> None:
        """`is_on`: False if no look-up may stop a process (open_timeout=0)."""
        self._view = view
        self._looks = looks
        self._held = held
        self._limits = limits
        self._is_on = is_on

    def of(self, uid: int) -> "ExactDirectory":
        """This directory with the inode number that `uid` finds."""
        own = copy(self)
        own.number = _EXACT | uid
        return own

    @staticmethod
    def user(number: int) -> int | None:
        """The user whose directory has this number; None if it is no such directory."""
        return number ^ _EXACT if number & _EXACT else None

    async def lookup(self, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Stop the process as open(2) does, and answer when the core is ready, or soon; then the
        file waits for the core when it is asked for its size (process_file.py).

        tar, cpio, rclone and similar programs ask for the size first, write it down, and then open
        the file.  Their open finds the stop that the look-up began, because the inode is the same.
        """
        if not self._is_on:
            raise FUSEError(errno.ENOENT)
        found = await _sought(name, self._view, self._looks, ctx)
        with self._view.held(found.process) as reference:
            with self._limits.requests.lent(ctx.uid, found.process.pid):
                await self._held.request(reference.inode, ctx)
            found = await self._looks.with_size(found, reference.inode, ctx)
            return _answer(reference, found)

    async def open_directory(self, ctx: RequestContext) -> OpenDirectory:
        with self._limits.others.kept(ctx.uid, 0) as kept:
            return _OpenNodes({}, kept)


class ControlDirectory(OwnDirectory):
    """The control files."""

    number = 2
    links = OwnDirectory.links + 1  # ".." in exact/

    def __init__(self, nodes: Mapping[bytes, OwnNode], limits: Limits) -> None:
        self._nodes = nodes
        self._limits = limits

    async def lookup(self, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if name not in self._nodes:
            raise FUSEError(errno.ENOENT)
        return self._nodes[name].of(ctx.uid).entry()

    async def open_directory(self, ctx: RequestContext) -> OpenDirectory:
        with self._limits.others.kept(ctx.uid, 0) as kept:
            return _OpenNodes(self._nodes, kept)


class _OpenNodes(OpenDirectory):
    def __init__(self, nodes: Mapping[bytes, OwnNode], kept: Kept) -> None:
        self._nodes = nodes
        self._kept = kept

    async def read(self, start: int, reply: Reply) -> None:
        if not reply_dots(start, reply):
            return
        for name, node in self._nodes.items():  # in the order of their numbers, after the dots
            entry = node.of(self._kept.uid).entry()
            if start < node.number and not reply(name, entry, node.number):
                return

    def release(self) -> None:
        self._kept.give_back()


class _OpenProcesses(OpenDirectory):
    """Reads the list of pids at the first read, and again when it is read from its beginning."""

    def __init__(
        self, view: View, ask: Callable[[], Awaitable[list[int]]], lists: PidLists, kept: Kept
    ) -> None:
        """`ask`: for the pids that /proc shows to the opener, in order."""
        self._view = view
        self._ask = ask
        self._lists = lists
        self._kept = kept

    async def read(self, start: int, reply: Reply) -> None:
        # Identifiers: 1 and 2 for the dots, then pid + 2.  So a process that comes or goes between
        # two calls does not move the others.
        pids = self._lists.of(self._kept.uid, self) if start else None
        if pids is None:
            pids = self._lists.keep(self._kept.uid, self, await self._ask())
        if not reply_dots(start, reply):
            return
        blank = entries.listed()
        for pid in pids[bisect_right(pids, start - 2) :]:
            inode = self._view.listed(pid)
            if inode.seen is None:
                entry = blank
                entry.st_ino = InodeT(inode.number)
            else:  # with all attributes, because somebody may have it open or is about to open it
                entry = entry_of(inode, inode.seen)
            if not reply(b"%d" % pid, entry, pid + 2):
                self._view.take_back(inode)
                return

    def release(self) -> None:
        self._lists.drop(self._kept.uid, self)
        self._kept.give_back()


async def _sought(name: bytes, view: View, looks: Looks, ctx: RequestContext) -> Look:
    """The process with this name, as the caller may see it.  ENOENT."""
    pid = names.pid_of(name)
    if not pid:
        raise FUSEError(errno.ENOENT)
    view.seek(pid)
    found = await looks.look(pid, ctx)
    if found is None:
        raise FUSEError(errno.ENOENT)
    return found


def _answer(reference: Reference, found: Look) -> EntryAttributes:
    """The reply to a look-up.  From now on the kernel has a reference to the inode."""
    reference.inode.seen = found
    entry = entry_of(reference.inode, found)
    reference.keep()
    return entry

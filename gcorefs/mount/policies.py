"""Directories of policies: /@all/1234 is the core of process 1234 under the profile @all.

A directory exists from the look-up of its name until the kernel forgets it, or until all users who
have looked it up have looked up many others since: names have no end, and the kernel forgets a name
only if it is short of memory.  A process whose current directory is gone in this way gets ESTALE.
By its name the directory is found again, because the kernel looks a name up for each use
(entries.py).

Each spelling of a policy is a directory of its own, because a directory may have only one name
(fs/dcache.c, d_splice_alias).  The files in directories of the same policy are the same files.
"""

import errno

from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from gcorefs import tuning
from gcorefs.mount.directories import ProcessDirectory
from gcorefs.mount.errors import PolicyRefused, RequestReason
from gcorefs.mount.inodes import Inodes, View
from gcorefs.mount.limits import Limits
from gcorefs.mount.looks import Looks
from gcorefs.mount.options import MountPolicy, Options
from gcorefs.mount.policy_names import (
    LONGEST,
    WholeMount,
    longer_than,
    policy_named,
    profile_of,
)
from gcorefs.mount.sight import is_everybodys
from gcorefs.option import ValueRefused
from gcorefs.profiles import MARK, Profiles, UnknownWord

_MARK = MARK.encode()

_MOST_OF_A_USER = 16
"""Directories that one user has at one time."""


class PolicyDirectory(ProcessDirectory):
    """One name of a policy."""

    lookups = 0
    """How many references the kernel has (FUSE_FORGET)."""

    def __init__(self, number: int, name: bytes, view: View, looks: Looks, limits: Limits) -> None:
        super().__init__(view, looks, limits)
        self.number = number
        self.name = name
        self.view = view
        self.users: set[int] = set()
        """Those who have it among their last directories."""


class PolicyDirectories:
    """The directories of policies that are in use."""

    def __init__(
        self, options: Options, profiles: Profiles, inodes: Inodes, looks: Looks, limits: Limits
    ) -> None:
        self._options = options
        self._profiles = profiles
        self._inodes = inodes
        self._looks = looks
        self._limits = limits
        self._by_name: dict[bytes, PolicyDirectory] = {}
        self._by_number: dict[int, PolicyDirectory] = {}
        self._last: dict[int, dict[bytes, PolicyDirectory]] = {}
        """By user, and then by name in the order of their use."""

    def replace_profiles(self, profiles: Profiles) -> None:
        """Use other profiles from now on.  A directory whose name now means something else, or
        nothing, is forgotten; cores that are open stay as they are."""
        self._profiles = profiles
        for name, directory in list(self._by_name.items()):
            try:
                is_same = policy_named(name, self._options, profiles) == directory.view.policy
            except UnknownWord:
                is_same = False
            if not is_same:
                self._drop(directory)

    def get(self, number: int) -> PolicyDirectory | None:
        return self._by_number.get(number)

    def lookup(self, name: bytes, ctx: RequestContext) -> EntryAttributes | None:
        """The directory with this name; None if it is no name of a policy.  The kernel gets one
        more reference to it.

        The name is judged for each caller, who cannot ask for longer than the mount's options by a
        name that root has looked up: the kernel looks it up again for each use (entries.py).
        """
        if not name.startswith(_MARK):
            return None
        if len(name) > LONGEST:
            raise FUSEError(errno.ENAMETOOLONG)
        policy = self._judged(name, ctx)
        directory = self._by_name.get(name) or self._new(name, policy)
        directory.lookups += 1
        self._use(directory, self._limits.owner(ctx.uid))
        return directory.entry()

    def _judged(self, name: bytes, ctx: RequestContext) -> MountPolicy:
        """The policy with this name, if the caller may have it.  ENOENT, EINVAL, EPERM."""
        try:
            policy = policy_named(name, self._options, self._profiles)
        except UnknownWord:
            raise FUSEError(errno.ENOENT) from None
        except ValueRefused as error:
            is_whole = isinstance(error, WholeMount)
            reason = RequestReason.WHOLE_MOUNT if is_whole else RequestReason.NO_VALUE
            raise PolicyRefused(reason, ctx.pid, error.name, str(error)) from error
        too_long = self._too_long(name, policy)
        if too_long and not is_everybodys(ctx.uid):
            detail = f"uid {ctx.uid}"
            line = f"{detail}: {too_long}"
            raise PolicyRefused(RequestReason.TOO_LONG, ctx.pid, detail, line)
        return policy

    def _too_long(self, name: bytes, policy: MountPolicy) -> str:
        """The first time that is longer than those of the mount and of the profile, which whoever
        has mounted has written; empty if there is none."""
        found = longer_than(policy, self._options)
        if found and (profile := profile_of(name)):
            own = policy_named(profile, self._options, self._profiles)
            found = longer_than(policy, own) and found
        return found

    def _new(self, name: bytes, policy: MountPolicy) -> PolicyDirectory:
        number, view = self._inodes.new_number(0), self._inodes.show(policy)
        directory = PolicyDirectory(number, name, view, self._looks, self._limits)
        self._by_name[name] = self._by_number[number] = directory
        return directory

    def _use(self, directory: PolicyDirectory, user: int) -> None:
        """Put it behind all others of the user, and drop the first one if there are too many."""
        last = self._last.setdefault(user, {})
        last.pop(directory.name, None)
        last[directory.name] = directory
        directory.users.add(user)
        while len(last) > _MOST_OF_A_USER or _has_too_many_names([*last.values()]):
            oldest = last.pop(next(iter(last)))
            oldest.users.discard(user)
            if not oldest.users:
                self._drop(oldest)

    def _drop(self, directory: PolicyDirectory) -> None:
        for user in directory.users:
            del self._last[user][directory.name]
            if not self._last[user]:
                del self._last[user]
        del self._by_number[directory.number]
        del self._by_name[directory.name]
        self._inodes.hide(directory.view)

    def forget(self, number: int, lookups: int) -> bool:
        """The kernel has dropped so many references.  False if it is no such directory."""
        directory = self._by_number.get(number)
        if directory is None:
            return False
        directory.lookups -= lookups
        if directory.lookups <= 0:
            self._drop(directory)
        return True


def _has_too_many_names(directories: list[PolicyDirectory]) -> bool:
    # The last one is in use, and has as many names as there are processes.
    return sum(each.view.size for each in directories[:-1]) > tuning.now().most_names

"""The nodes of one mount, by number.

1   /                  the processes under the options of the mount
2   /.gcorefs          files that belong to no process (names.py)
3   /.gcorefs/status
4   /.gcorefs/release
5   /.gcorefs/exact    the same processes; a look-up stops them.  Each user has another number
... /@POLICY           the processes under another policy (policies.py)
... /PID               a process: its number has the pid in it (inodes.py); the same in /@POLICY
"""

import contextlib
import errno

from pyfuse3 import FUSEError

from gcorefs.mount import names
from gcorefs.mount.control import Release, Status, StatusTexts
from gcorefs.mount.directories import ControlDirectory, ExactDirectory, Root
from gcorefs.mount.held import Held
from gcorefs.mount.inodes import Inodes
from gcorefs.mount.limits import Limits
from gcorefs.mount.looks import Looks
from gcorefs.mount.nodes import Node, OwnNode
from gcorefs.mount.options import Options
from gcorefs.mount.policies import PolicyDirectories
from gcorefs.mount.process_file import ProcessFile
from gcorefs.profiles import Profiles


class Tree:
    def __init__(
        self, options: Options, profiles: Profiles, looks: Looks, held: Held, limits: Limits
    ) -> None:
        self._looks = looks
        self._held = held
        self._limits = limits
        self._inodes = Inodes()
        self._policies = PolicyDirectories(options, profiles, self._inodes, looks, limits)
        view = self._inodes.show(options.mount_policy)
        status = Status(StatusTexts(held), limits.requests)
        release = Release(held, looks, limits)
        exact = ExactDirectory(view, looks, held, limits, options.open_timeout > 0)
        nodes = {names.STATUS: status, names.RELEASE: release, names.EXACT: exact}
        control = ControlDirectory(nodes, limits)
        self.replace_profiles = self._policies.replace_profiles
        self.root = Root(view, looks, limits, {names.DIRECTORY: control}, self._policies)
        self._exact = exact
        own: tuple[OwnNode, ...] = (self.root, control, status, release, exact)
        self._own = {node.number: node for node in own}

    def __getitem__(self, number: int) -> Node:
        """ESTALE for what was never looked up, or cannot be reached by its name any more."""
        if number in self._own:
            return self._own[number]
        if (user := ExactDirectory.user(number)) is not None:
            return self._exact.of(user)
        if (directory := self._policies.get(number)) is not None:
            return directory
        try:
            inode = self._inodes[number]
        except KeyError:
            raise FUSEError(errno.ESTALE) from None
        return ProcessFile(inode, self._looks, self._held, self._limits)

    def forget(self, number: int, lookups: int) -> None:
        """The kernel has dropped so many references.  The mount's own nodes stay."""
        if number in self._own or ExactDirectory.user(number) is not None:
            return
        if not self._policies.forget(number, lookups):
            with contextlib.suppress(KeyError):  # we have forgotten it before (Inodes.hide)
                self._inodes.forget(number, lookups)

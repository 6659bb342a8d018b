"""The nodes of the mount: what names are, what is listed, what is given back."""

import dataclasses
import errno
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from pyfuse3 import EntryAttributes, FlagT, FUSEError, RequestContext

from gcorefs.elfcore.estimate import Counters
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.look import Look
from gcorefs.mount.control import Release, Status, StatusTexts
from gcorefs.mount.directories import ControlDirectory, ExactDirectory, ProcessDirectory, Root
from gcorefs.mount.held import Held
from gcorefs.mount.inodes import Inode, Inodes
from gcorefs.mount.limits import Limits
from gcorefs.mount.looks import Looks
from gcorefs.mount.nodes import OpenDirectory
from gcorefs.mount.options import DEFAULT, MountPolicy, Options
from gcorefs.mount.policies import PolicyDirectories
from gcorefs.mount.process_file import ProcessFile
from gcorefs.profiles import BUILT_IN
from gcorefs.tuning import Tuning

PIDS = [7, 300, 4_000_000]
SIZE = 12345
CALLER = RequestContext()
DOTS = [(b".", 1), (b"..", 2)]


class SeesAll:
    """Shows every process of PIDS to everybody."""

    async def viewer(self, ctx: RequestContext) -> None:
        return None

    async def pids(self, viewer: None, uid: int) -> list[int]:
        return PIDS

    async def look(self, pid: int, ctx: RequestContext, number: int = 0) -> Look | None:
        if pid not in PIDS:
            return None
        return Look(Process(pid, 100), 1, 2, pid, 0, Counters(1, 0, 0, 0), 0, 0, 0.0)

    async def is_shown(self, core: object, ctx: RequestContext, number: int = 0) -> bool:
        return True

    async def with_size(self, found: Look, inode: Inode, ctx: RequestContext) -> Look:
        return dataclasses.replace(found, estimate=SIZE)

    async def await_size(self, inode: Inode, ctx: RequestContext) -> None: ...


LOOKS = cast(Looks, SeesAll())


class Profile(ProcessDirectory):
    """The same processes under another policy: all that it takes."""

    def __init__(self, inodes: Inodes, policy: MountPolicy, limits: Limits) -> None:
        super().__init__(inodes.show(policy), LOOKS, limits)
        self.number = inodes.new_number(0)


@pytest.fixture
def limits() -> Limits:
    return Limits(Options(user_files=1))


@pytest.fixture
def inodes() -> Inodes:
    return Inodes()


@pytest.fixture
def profile(inodes: Inodes, limits: Limits) -> Profile:
    return Profile(inodes, MountPolicy(hold="copy"), limits)


@pytest.fixture
def root(inodes: Inodes, limits: Limits, profile: Profile) -> Root:
    return Root(inodes.show(DEFAULT), LOOKS, limits, {b"@copy": profile})


async def errno_of(request: Awaitable[object]) -> int:
    with pytest.raises(FUSEError) as caught:
        await request
    return caught.value.errno


class Answer:
    """The answer to a reader of a directory, with room for so many entries."""

    def __init__(self, room: int = 100) -> None:
        self.entries: list[tuple[bytes, int]] = []
        self.inodes: dict[bytes, int] = {}
        self._room = room

    def __call__(self, name: bytes, entry: EntryAttributes, identifier: int) -> bool:
        if len(self.entries) == self._room:
            return False
        self.entries.append((name, identifier))
        self.inodes[name] = entry.st_ino
        return True


async def read(directory: OpenDirectory, start: int = 0, room: int = 100) -> Answer:
    answer = Answer(room)
    await directory.read(start, answer)
    return answer


async def test_a_number_is_a_process_and_nothing_else_is(root: Root) -> None:
    entry = await root.lookup(b"300", CALLER)
    assert (entry.st_uid, entry.st_gid, entry.st_size) == (1, 2, SIZE)
    for name in (b"301", b"0300", b"status", b"@none"):
        assert await errno_of(root.lookup(name, CALLER)) == errno.ENOENT


async def test_a_directory_of_another_policy_has_inodes_of_its_own(
    root: Root, profile: Profile, inodes: Inodes
) -> None:
    found = await root.lookup(b"@copy", CALLER)
    assert (found.st_ino, found.st_mode) == (profile.number, 0o40555)
    plain, copied = [await each.lookup(b"300", CALLER) for each in (root, profile)]
    assert plain.st_ino != copied.st_ino
    assert inodes[plain.st_ino].policy == DEFAULT
    assert inodes[copied.st_ino].policy == MountPolicy(hold="copy")
    assert inodes[plain.st_ino].process == inodes[copied.st_ino].process == Process(300, 100)
    listed = await read(await profile.open_directory(CALLER))
    assert listed.inodes[b"300"] == copied.st_ino
    assert inodes.show(DEFAULT).listed(7).number != listed.inodes[b"7"]


async def test_a_listing_goes_on_after_the_last_entry_that_found_room(root: Root) -> None:
    expected = [*DOTS, *((b"%d" % pid, pid + 2) for pid in PIDS)]
    for room in range(1, 6):
        directory = await root.open_directory(CALLER)
        found: list[tuple[bytes, int]] = []
        while answer := (await read(directory, found[-1][1] if found else 0, room)).entries:
            found += answer
        assert found == expected
        directory.release()


class List(list[int]):
    """A list that can be referred to weakly."""


class CountsLists(SeesAll):
    """Makes a list for each that asks."""

    def __init__(self) -> None:
        self.asked = 0
        self._given: list[weakref.ref[List]] = []

    @property
    def alive(self) -> int:
        return sum(each() is not None for each in self._given)

    async def pids(self, viewer: None, uid: int) -> list[int]:
        self.asked += 1
        found = List(PIDS)
        self._given.append(weakref.ref(found))
        return found


async def test_a_user_has_few_lists_however_many_directories_are_read_in_part(
    inodes: Inodes,
) -> None:
    looks = CountsLists()
    root = Root(inodes.show(DEFAULT), cast(Looks, looks), Limits(Options()), {})
    first, *others = [await root.open_directory(CALLER) for _ in range(1000)]
    for each in (first, *others):
        assert (await read(each, room=3)).entries == [*DOTS, (b"7", 9)]
    assert (looks.asked, looks.alive) == (1000, 0)
    rest = [(b"300", 302), (b"4000000", 4_000_002)]
    assert (await read(others[-1], 9)).entries == rest
    assert looks.asked == 1000
    assert (await read(first, 9)).entries == rest
    assert looks.asked == 1001
    for each in (first, *others):
        each.release()


async def test_an_entry_that_found_no_room_leaves_no_reference(root: Root, inodes: Inodes) -> None:
    directory = await root.open_directory(CALLER)
    first = await read(directory, room=3)
    assert [name for name, _ in first.entries] == [b".", b"..", b"7"]
    inodes.forget(first.inodes[b"7"], 1)
    second = await read(directory, 2)
    for pid in PIDS:
        inodes.forget(second.inodes[b"%d" % pid], 1)
        with pytest.raises(KeyError):
            inodes[second.inodes[b"%d" % pid]]


async def test_what_is_closed_counts_no_more(root: Root) -> None:
    for _ in range(3):  # a user may have one open
        directory = await root.open_directory(CALLER)
        with pytest.raises(Exception, match="user_files="):
            await root.open_directory(CALLER)
        directory.release()


async def test_the_control_directory_lists_its_files_and_exact_nobody(
    inodes: Inodes, limits: Limits
) -> None:
    held = cast(Held, None)
    status = Status(StatusTexts(held), limits.requests)
    release = Release(held, LOOKS, limits)
    exact = ExactDirectory(inodes.show(DEFAULT), LOOKS, held, limits, is_on=False)
    control = ControlDirectory({b"status": status, b"release": release, b"exact": exact}, limits)
    directory = await control.open_directory(CALLER)
    expected = [*DOTS, (b"status", 3), (b"release", 4), (b"exact", 5)]
    assert (await read(directory)).entries == expected
    assert (await read(directory, 3)).entries == expected[3:]
    directory.release()
    assert (await control.lookup(b"status", CALLER)).st_ino == 3
    assert await errno_of(control.lookup(b"300", CALLER)) == errno.ENOENT
    assert (await read(await exact.open_directory(CALLER))).entries == DOTS
    assert await errno_of(exact.lookup(b"300", CALLER)) == errno.ENOENT  # open_timeout=0
    writes = [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC]
    for flags in writes:
        assert await errno_of(status.open(FlagT(flags), CALLER)) == errno.EROFS
    for flags in (os.O_RDONLY, os.O_RDWR):
        assert await errno_of(release.open(FlagT(flags), CALLER)) == errno.EACCES


class _Held:
    """Nothing is held."""

    async def await_requested(self, inode: Inode, ctx: RequestContext) -> None:
        assert inode.core is None


async def test_a_kind_of_node_refuses_what_is_not_for_it(
    root: Root, inodes: Inodes, limits: Limits
) -> None:
    entry = await root.lookup(b"300", CALLER)
    file = ProcessFile(inodes[entry.st_ino], LOOKS, cast(Held, _Held()), limits)
    assert (await file.attributes(CALLER)).st_size == SIZE
    assert file.xattr_names(CALLER) == ()
    assert await file.xattr(b"user.gcorefs.state", CALLER) is None
    requests: list[tuple[Callable[[], Awaitable[object]], int]] = [
        (lambda: file.lookup(b"300", CALLER), errno.ENOTDIR),
        (lambda: file.open_directory(CALLER), errno.ENOTDIR),
        (lambda: file.open(FlagT(os.O_RDWR), CALLER), errno.EROFS),
        (lambda: root.open(FlagT(os.O_RDONLY), CALLER), errno.EISDIR),
    ]
    for request, expected in requests:
        assert await errno_of(request()) == expected


async def test_a_user_has_no_more_names_than_that_below_other_policies(
    inodes: Inodes, limits: Limits, tune: Callable[[Tuning], None]
) -> None:
    tune(Tuning(most_names=2 * len(PIDS)))
    directories = PolicyDirectories(Options(), BUILT_IN, inodes, LOOKS, limits)
    found = []
    for number in range(1, 5):
        entry = directories.lookup(b"@all,largest=%d" % number, CALLER)
        assert entry is not None
        directory = directories.get(entry.st_ino)
        assert directory is not None
        names = [(await directory.lookup(b"%d" % pid, CALLER)).st_ino for pid in PIDS]
        found.append((entry.st_ino, names))
        assert all(inodes[each].policy.largest == number for each in names)
    kept = [directories.get(number) is not None for number, _ in found]
    assert kept == [False, True, True, True]
    for number in found[0][1]:
        with pytest.raises(KeyError):
            inodes[number]
    assert all(inodes[number] for _, names in found[1:] for number in names)

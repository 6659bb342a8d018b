"""Directories of policies: /@all/PID, /@memory=none,hold=copy/PID."""

import errno
import json
import os
import re
import select
import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Mount, Target
from tests.mounted.conftest import (
    errno_of,
    eventually,
    gcorefs,
    is_free,
    is_held,
    note_of,
    opened,
    run,
    user,
    whole,
)
from tests.mounted.test_hidepid import Hiding
from tests.mounted.test_users_mount import asleep
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb
from tests.readers.test_memory import bounds, regions

Spawn = Callable[..., Target]

OTHER = 4321

NOBODYS = (
    "@none",
    "@",
    "@all,",
    "@all,text",
    "@memroy=none",
    "@All",
)
WRONG = {
    "@memory=x": "option memory: 'x' is none of filter",
    "@all,hold=": "option hold: '' is none of stop, copy",
    "@stop_timeout=-1": "option stop_timeout: '-1' is not a number of seconds",
    "@memory=\x1b[2J": r"option memory: '\x1b[2J' is none of",
}
OF_THE_WHOLE_MOUNT = (
    "@allow_other", "@fsname=x", "@user_files=1", "@max_stops=1", "@copy_limit=1", "@xstate=raw",
    "@open_timeout=1", "@all,max_memory=1",
)  # fmt: skip


@pytest.fixture
def shared(mount_with: Callable[..., Mount]) -> Mount:
    return mount_with("allow_other,max_stop=100,stop_timeout=2")


def facts_of(path: Path) -> dict[str, object]:
    with opened(path) as fd:
        facts: dict[str, object] = note_of(whole(fd))["policy"]
        return facts


# Names.


@pytest.mark.parametrize(
    ("name", "memory", "hold"),
    [
        ("@all", "all", "stop"),
        ("@text", "filter+text", "stop"),
        ("@threads", "none", "copy"),
        ("@stacks", "stacks", "copy"),
        ("@stacks,hold=stop", "stacks", "stop"),
        ("@memory=0x07", "0x7", "stop"),
        ("@all,hold=copy", "all", "copy"),
        ("@memory=none,hold=copy", "none", "copy"),
    ],
)
def test_a_directory_has_the_processes_under_its_policy(
    mount: Mount, spawn: Spawn, name: str, memory: str, hold: str
) -> None:
    target = spawn("threads", 3)
    facts = facts_of(mount.path / name / str(target.pid))
    assert (facts["memory"], facts["hold"]) == (memory, hold)
    eventually(lambda: is_free(target.pid))


def test_a_directory_is_one_of_the_mount(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    found = os.stat(mount.path / "@all")
    assert (found.st_mode, found.st_uid, found.st_nlink) == (0o40555, 0, 2)
    names = os.listdir(mount.path / "@all")
    assert str(target.pid) in names
    assert all(name.isdigit() for name in names)
    assert not [name for name in os.listdir(mount.path) if not name.isdigit()]
    assert is_free(target.pid)  # looking stops nobody
    assert os.path.samefile(mount.path / "@all" / "..", mount.path)


@pytest.mark.parametrize("name", [*NOBODYS, "@all/@text", "@all/.gcorefs", "@" + "a" * 254])
def test_a_name_that_is_no_policy_is_not_there(mount: Mount, name: str) -> None:
    assert errno_of(partial(os.stat, mount.path / name)) == errno.ENOENT


def test_a_name_may_be_as_long_as_elsewhere(mount: Mount) -> None:
    assert os.statvfs(mount.path).f_namemax == 255
    assert errno_of(partial(os.stat, mount.path / ("@" + "a" * 255))) == errno.ENAMETOOLONG


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_and_logged(mount: Mount, name: str) -> None:
    mount.expect(f"a path gives an option a value that it cannot have ({WRONG[name]}")
    assert errno_of(partial(os.stat, mount.path / name / "1")) == errno.EINVAL


@pytest.mark.parametrize("name", OF_THE_WHOLE_MOUNT)
def test_an_option_of_the_whole_mount_is_refused(mount: Mount, name: str) -> None:
    mount.expect("a path names an option that holds for the whole mount")
    assert errno_of(partial(os.stat, mount.path / name)) == errno.EINVAL


@pytest.mark.parametrize("name", ["@all", "@memory=none"])
def test_nothing_is_made_moved_or_removed_there(mount: Mount, spawn: Spawn, name: str) -> None:
    place = mount.path / name
    file = place / str(spawn("threads", 1).pid)
    for request in (
        partial(os.mkdir, place / "x"),
        partial(os.rmdir, place),
        partial(os.unlink, file),
        partial(os.rename, file, place / "x"),
        partial(os.rename, place, mount.path / "x"),
        partial(os.symlink, "x", place / "x"),
        partial(os.truncate, file, 0),
        partial(os.mkdir, mount.path / "@new"),
        partial(os.open, file, os.O_RDWR),
        partial(os.open, place / "x", os.O_CREAT | os.O_WRONLY),
    ):
        assert errno_of(request) == errno.EROFS, request


# One policy, one inode, one stop.


def test_another_policy_is_another_file(mount: Mount, spawn: Spawn) -> None:
    pid = str(spawn("threads", 1).pid)
    numbers = {
        name: os.stat(mount.path / name / pid).st_ino
        for name in (
            ".", "@all", "@memory=all", "@memory=none,memory=all", "@threads", "@memory=filter"
        )
    }  # fmt: skip
    assert numbers["@all"] == numbers["@memory=all"] == numbers["@memory=none,memory=all"]
    assert numbers["."] == numbers["@memory=filter"]
    assert len({numbers["."], numbers["@all"], numbers["@threads"]}) == 3


def test_all_policies_share_one_stop(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 3)
    paths = [mount.path / name / str(target.pid) for name in (".", "@threads", "@all,hold=copy")]
    with opened(paths[0]) as plain, opened(paths[1]) as threads, opened(paths[2]) as copied:
        notes = [note_of(whole(fd)) for fd in (plain, threads, copied)]
        assert len({note["stopped_at"] for note in notes}) == 1
        assert [note["policy"]["memory"] for note in notes] == ["filter", "none", "all"]
        assert is_held(target.pid)  # the first is no copy
        text = (mount.path / ".gcorefs" / "status").read_text()
        policies = [stop["policy"] for stop in json.loads(text)["stops"]]
        assert sorted(policies) == ["", "memory=all,hold=copy", "stop=each,memory=none,hold=copy"]
    eventually(lambda: is_free(target.pid))


def test_a_stop_lasts_until_the_last_core_is_closed(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    with opened(mount.path / "@all" / str(target.pid)) as fd:
        with opened(mount / target.pid) as plain:
            assert os.pread(plain, 4, 0) == os.pread(fd, 4, 0) == b"\x7fELF"
        assert os.pread(fd, 4, 0) == b"\x7fELF"
        assert is_held(target.pid)
    eventually(lambda: is_free(target.pid))


def test_a_stop_has_so_many_cores(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    paths = [
        mount.path / f"@idle_timeout={number}" / str(target.pid) for number in range(1, 60)
    ] + [mount.path / f"@idle_timeout={number}.5" / str(target.pid) for number in range(1, 40)]
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        found = [errno_of(partial(read_some, path)) for path in paths]
        assert found == [0] * 79 + [errno.EAGAIN] * (len(paths) - 79)  # 16 of these for root
        mount.expect("its stop has too many cores with different policies (uid 0)")
        assert is_held(target.pid)
    eventually(lambda: is_free(target.pid))
    assert read_some(paths[-1]) == b"\x7fELF"


def read_some(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(4)


def test_a_core_that_was_refused_can_be_tried_again(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with("user_memory=1")
    target = spawn("threads", 150)
    path = mount.path / "@memory=none" / str(target.pid)
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        mount.expect("the headers of its opener need too much memory")
        for _ in range(3):
            assert errno_of(partial(read_some, path)) == errno.EMFILE
        assert os.pread(fd, 4, 0) == b"\x7fELF"
    assert read_some(path) == b"\x7fELF"


def test_a_new_core_after_a_copy_is_another_stop(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    with opened(mount.path / "@hold=copy" / str(target.pid)) as copied:
        first = note_of(whole(copied))
        eventually(lambda: is_free(target.pid))
        with opened(mount.path / "@all" / str(target.pid)) as fd:
            second = note_of(whole(fd))
            assert first["stopped_at"] < second["stopped_at"]
            assert is_held(target.pid)


def test_poll_and_release_work_there(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    path = mount.path / "@threads" / str(target.pid)
    with opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(30_000) == [(fd, select.POLLIN)]
        assert os.read(fd, 4) == b"\x7fELF"
        assert gcorefs("release", target.pid, "--mount", mount.path).returncode == 0
        eventually(lambda: is_free(target.pid))
        assert poll.poll(30_000)[0][1] & select.POLLERR


def test_attributes_tell_of_the_core_with_that_policy(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    path = mount.path / "@threads" / str(target.pid)
    with opened(path) as fd:
        os.read(fd, 1)
        assert os.getxattr(path, "user.gcorefs.policy.memory") == b"none"
        assert int(os.getxattr(path, "user.gcorefs.left_out.policy")) > 0
        assert int(os.getxattr(path, "user.gcorefs.bytes.recorded")) == 0
        assert os.fstat(fd).st_size == len(whole(fd))
        result = gcorefs("info", "--json", path)
        assert json.loads(result.stdout)["gcorefs"]["policy"]["memory"] == "none"


def test_each_core_says_what_becomes_of_a_thread_that_does_not_stop(
    mount: Mount, spawn: Spawn
) -> None:
    target = spawn("vforker")
    mount.expect("one of its threads does not stop, and unresponsive= forbids that")
    words = ("fail", "partial", "zero", "omit")
    with ExitStack() as stack:
        files = {}
        for word in words:  # the first one begins the stop
            path = mount.path / f"@stop_timeout=0.3,unresponsive={word}" / str(target.pid)
            files[word] = stack.enter_context(opened(path))
        plain = stack.enter_context(opened(mount / target.pid))
        assert errno_of(lambda: os.read(files["fail"], 1)) == errno.EBUSY
        for word in words[1:]:
            facts = note_of(whole(files[word]))
            expected = {"stopped": 4, "partial": 0, "zero": 0, "omitted": 0}
            expected["omitted" if word == "omit" else word] = 1
            assert facts["threads"] == expected
            assert facts["policy"]["stop_timeout"] == 0.3
        assert note_of(whole(plain))["policy"]["stop_timeout"] == 0.3
    assert target.ask("release") == {"released": True}
    eventually(lambda: is_free(target.pid))


# What is in the files.


def test_all_has_every_byte_that_can_be_read(mount: Mount, spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("memory", tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x0")
    core = Core(mount.path / "@all" / str(target.pid))
    for name, (region, expected) in regions(target).items():
        start, end = bounds(region)
        if name == "dontdump":
            assert core.segment(start).filesz == 0
        else:
            assert core.read(start, end) == expected, name
    del core
    plain = Core(mount / target.pid)
    assert plain.segment(bounds(target.truth["regions"][0])[0]).filesz == 0


def test_text_has_the_code(mount: Mount, spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("memory", tmp_path)
    core = Core(mount.path / "@text" / str(target.pid))
    for name, (region, expected) in regions(target).items():
        if name in ("exe_text", "anon_private"):
            assert core.read(*bounds(region)) == expected, name
    code = [load for load in core.loads if load.flags & 1]
    assert code
    assert all(load.filesz == load.memsz for load in code)


def test_gdb_finds_every_thread_without_memory(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 3)
    path = mount.path / "@threads" / str(target.pid)
    text = gdb(target.argv[0], path, "--", "info threads", "thread apply all p $pc")
    tids = {target.pid, *(thread["tid"] for thread in target.truth["threads"])}
    assert {int(tid) for tid in re.findall(r"LWP (\d+)", text)} == tids
    assert text.count("<futex") + text.count("(void (*)())") >= len(tids)


@pytest.mark.parametrize("name", ["@stacks", "@threads"])
def test_a_small_core_holds_nobody(mount: Mount, spawn: Spawn, name: str) -> None:
    """Its process runs on while its file is open, and the file keeps its bytes."""
    target = spawn("threads", 20)
    with opened(mount.path / name / str(target.pid)) as fd:
        before = whole(fd)
        eventually(lambda: is_free(target.pid))
        target.ask("ping")
        assert whole(fd) == before
    assert note_of(before)["policy"]["held"] == "copy"


@pytest.mark.parametrize("program", ["threads", "memory", "other_stacks"])
def test_a_size_before_the_open_is_large_enough(
    mount: Mount, spawn: Spawn, tmp_path: Path, program: str
) -> None:
    words: dict[str, tuple[object, ...]] = {"threads": (100,), "memory": (tmp_path,)}
    target = spawn(program, *words.get(program, ()))
    for name in (
        "@all",
        "@text",
        "@threads",
        "@memory=0x1ff",
        "@memory=text",
        "@stacks",
        "@stacks,referenced=64",
        "@memory=none,include=*",
        "@memory=heap+shm+file",
    ):
        path = mount.path / name / str(target.pid)
        before = path.stat().st_size
        with opened(path) as fd:
            assert before >= len(whole(fd)) == os.fstat(fd).st_size, name
        eventually(lambda: is_free(target.pid))


# Profiles of a file.


def test_profiles_of_a_file_are_directories_too(
    unmounted: Mount, spawn: Spawn, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[profiles.night]\nmemory = "none"\nhold = "copy"\nmax_stop = 50\n')
    words = ("--config", config, "--log-file", unmounted.log, "-o", "allow_other,max_stop=9")
    assert gcorefs("mount", *words, unmounted.path).returncode == 0
    target = spawn("threads", 1)
    facts = facts_of(unmounted.path / "@night" / str(target.pid))
    assert (facts["memory"], facts["hold"]) == ("none", "copy")
    assert facts_of(unmounted.path / "@all" / str(target.pid))["memory"] == "all"
    # Whoever mounts may write longer times than a user may ask for.
    for name, is_there in (
        ("@night", True),
        ("@night,memory=all,max_stop=40", True),
        ("@night,max_stop=51", False),
        ("@all,max_stop=10", False),
    ):
        found = run(*user(OTHER), "stat", unmounted.path / name)
        assert (found.returncode == 0) == is_there, name
    unmounted.expect("only root may ask in a path for longer than the mount's options")
    eventually(lambda: is_free(target.pid))


@pytest.fixture
def configured(unmounted: Mount, tmp_path: Path) -> Path:
    """The file of the profiles of a mount."""
    config = tmp_path / "config.toml"
    config.write_text('[profiles.night]\nmemory = "none"\n[profiles.day]\nmemory = "all"\n')
    words = ("--config", config, "--log-file", unmounted.log, unmounted.path)
    assert gcorefs("mount", *words).returncode == 0
    return config


def is_logged(mount: Mount, text: str) -> bool:
    return text in mount.log.read_text()


def test_at_a_sighup_the_profiles_are_read_again(
    configured: Path, unmounted: Mount, spawn: Spawn
) -> None:
    pid = str(spawn("threads", 1).pid)
    here = unmounted.path
    night = os.stat(here / "@night").st_ino
    day = os.stat(here / "@day").st_ino
    with opened(here / "@night" / pid) as fd:
        core = whole(fd)
        configured.write_text('[profiles.night]\nmemory = "0x1"\n[profiles.noon]\nhold = "copy"\n')
        os.kill(unmounted.server, signal.SIGHUP)
        eventually(lambda: is_logged(unmounted, "SIGHUP: there are "))
        # A core that is open stays as it is; a name means what the file says now.
        assert whole(fd) == core
        assert facts_of(here / "@night" / pid)["memory"] == "0x1"
        assert facts_of(here / "@noon" / pid)["hold"] == "copy"
        assert facts_of(here / "@all" / pid)["memory"] == "all"
        assert errno_of(lambda: os.stat(here / "@day")) == errno.ENOENT
    assert os.stat(here / "@night").st_ino not in (night, day)


@pytest.mark.parametrize("content", ["[profiles", '[profiles.night]\nmemory = "x"\n', None])
def test_a_wrong_file_changes_nothing(
    configured: Path, unmounted: Mount, content: str | None
) -> None:
    before = os.stat(unmounted.path / "@night").st_ino
    unmounted.expect("SIGHUP: the profiles stay as they were: ")
    if content is None:
        configured.unlink()
    else:
        configured.write_text(content)
    os.kill(unmounted.server, signal.SIGHUP)
    eventually(lambda: is_logged(unmounted, "SIGHUP: the profiles stay as they were: "))
    assert str(configured) in unmounted.log.read_text()
    assert os.stat(unmounted.path / "@night").st_ino == before
    assert os.stat(unmounted.path / "@day").st_ino


def test_a_wrong_file_is_told_before_anything_is_mounted(unmounted: Mount, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[profiles.night]\n\nmemory = "everything"\n')
    result = gcorefs("mount", "--config", config, unmounted.path)
    assert result.returncode == 1
    (line,) = result.stderr.decode().splitlines()
    assert f"{config}:3: profiles.night.memory: option memory: 'everything'" in line
    result = gcorefs("mount", "--config", tmp_path / "missing", unmounted.path)
    (line,) = result.stderr.decode().splitlines()
    assert f"{tmp_path / 'missing'}: No such file or directory" in line
    assert not unmounted.is_there


# Users.


def test_a_user_may_shorten_a_time_but_not_lengthen_it(shared: Mount) -> None:
    longer = ("@stop_timeout=3", "@idle_timeout=61", "@idle_timeout=0", "@max_stop=101",
              "@all,max_stop=0")  # fmt: skip
    shorter = ("@stop_timeout=0", "@idle_timeout=5,max_stop=100", "@all,stop_timeout=2")
    for name in longer:
        shared.expect(f"uid {OTHER}: {name.removeprefix('@all,').removeprefix('@')}")
        result = run(*user(OTHER), "stat", shared.path / name)
        assert b"Operation not permitted" in result.stderr
        assert (shared.path / name).is_dir()  # for root
        assert b"not permitted" in run(*user(OTHER), "ls", shared.path / name).stderr
    for name in shorter:
        assert run(*user(OTHER), "stat", shared.path / name).returncode == 0


def test_a_time_in_a_path_is_kept(mount: Mount, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    mount.expect("it was stopped for 0.2 s")
    with opened(mount.path / "@max_stop=0.2" / str(target.pid)) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
        eventually(lambda: is_free(target.pid))
    mount.expect("its file was not read for 0.1 s")
    with opened(mount.path / "@idle_timeout=0.1" / str(target.pid)) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
        eventually(lambda: is_free(target.pid))


def test_a_user_opens_what_they_may_trace_and_nothing_else(shared: Mount) -> None:
    with asleep(*user(OTHER), "sleep") as own, asleep("sleep") as roots:
        for name in ("@all", "@threads", "@memory=none,hold=copy"):
            place = shared.path / name
            begun = run(*user(OTHER), "head", "-c", "4", place / str(own))
            assert begun.stdout == b"\x7fELF"
            refused = run(*user(OTHER), "cat", place / str(roots))
            assert b"Permission denied" in refused.stderr
            listed = run(*user(OTHER), "ls", place).stdout.split()
            assert {b"%d" % own, b"%d" % roots} <= set(listed)


@pytest.mark.parametrize("mode", ["1", "2"])
def test_what_proc_hides_is_hidden_there(tmp_path: Path, mode: str) -> None:
    hiding = Hiding(tmp_path, mode)
    try:
        with asleep("sleep") as roots, asleep(*user(OTHER), "sleep") as own:
            for name in (".", "@all", "@memory=none,hold=copy"):
                place = hiding.path / name
                listed = hiding.run(user(OTHER), "ls", place).stdout.split()
                assert b"%d" % own in listed
                assert (b"%d" % roots in listed) == (mode == "1")
                found = hiding.run(user(OTHER), "stat", place / str(roots))
                assert (found.returncode == 0) == (mode == "1")
    finally:
        hiding.end()


# How many there may be.


def test_names_without_end_are_not_kept(mount: Mount, spawn: Spawn) -> None:
    pid = str(spawn("threads", 1).pid)
    path = mount.path / "@all" / pid
    with opened(path) as fd:
        data = whole(fd)
        number = os.fstat(fd).st_ino
        standing = os.open(mount.path / "@text", os.O_RDONLY | os.O_DIRECTORY)
        for seconds in range(50):
            os.stat(mount.path / f"@idle_timeout={seconds + 1}" / pid)
        assert errno_of(partial(os.fstat, standing)) == errno.ESTALE
        os.close(standing)
        # An open file stays what it is, and its name leads to it.
        assert whole(fd) == data
        assert os.stat(path).st_ino == os.fstat(fd).st_ino == number
        with opened(path) as again:
            assert whole(again) == data
    assert pid in os.listdir(mount.path / "@text")

"""The limits of our cgroups, from files as the kernel writes them, in both versions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.kernel.proc import procfile
from gcorefs.process import cgroups
from gcorefs.process.cgroups import Limit

MIB = 1 << 20
NO_LIMIT_V1 = 0x7FFFFFFFFFFFF000
"""PAGE_COUNTER_MAX in bytes (mm/memcontrol-v1.c)."""

Proc = Callable[[str, str], None]


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Proc:
    """Replace /proc/self/cgroup and /proc/self/mountinfo."""

    def say(cgroup: str, mountinfo: str) -> None:
        texts = {"self/cgroup": cgroup, "self/mountinfo": mountinfo}
        monkeypatch.setattr(procfile, "read", lambda path: texts[path].encode())

    return say


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


def v2(root: str, place: object) -> str:
    return (
        "22 1 8:1 / / rw - ext4 /dev/vda rw\n"
        f"31 22 0:27 {root} {place} rw,nosuid shared:9 master:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    )


def v1(root: str, place: Path) -> str:
    return (
        f"34 33 0:30 {root} {place}/cpu rw - cgroup cgroup rw,cpu\n"
        f"35 33 0:31 {root} {place}/memory rw - cgroup cgroup rw,memory\n"
        f"36 33 0:32 / {place}/unified rw - cgroup2 cgroup2 rw\n"
    )


def test_every_group_up_to_the_top_has_its_limit(proc: Proc, tmp_path: Path) -> None:
    proc("0::/a/b\n", v2("/", tmp_path))
    group(tmp_path, stat="inactive_file 1")  # the top group has no limit and no usage
    stat = f"anon 5\ninactive_anon 7\ninactive_file {8 * MIB}\nactive_file 9"
    group(tmp_path / "a", max=100 * MIB, high="max", current=60 * MIB, stat=stat)
    group(tmp_path / "a/b", max="max", high=40 * MIB, current=30 * MIB, stat="inactive_file 0")
    assert cgroups.memory_limits() == [
        Limit(40 * MIB, 10 * MIB),
        Limit(100 * MIB, 48 * MIB),
    ]


def test_version_1_is_used_if_it_has_the_memory_controller(proc: Proc, tmp_path: Path) -> None:
    proc("5:cpu:/x\n4:freezer,memory:/a\n0::/y\n", v1("/", tmp_path))
    stat = f"inactive_file 5\ntotal_inactive_file {MIB}"
    files = {"limit_in_bytes": 70 * MIB, "usage_in_bytes": 40 * MIB, "stat": stat}
    group(tmp_path / "memory/a", **files)
    group(tmp_path / "memory", **{**files, "limit_in_bytes": NO_LIMIT_V1})
    assert cgroups.memory_limits() == [
        Limit(70 * MIB, 31 * MIB),
        Limit(NO_LIMIT_V1, NO_LIMIT_V1 - 39 * MIB),
    ]


@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/sub", "/docker/abcd", "/"])
def test_in_a_container_the_first_group_that_is_seen_is_its_own(
    proc: Proc, tmp_path: Path, path: str
) -> None:
    proc(f"4:memory:{path}\n", v1("/docker/abc", tmp_path))
    files = {"limit_in_bytes": 70 * MIB, "usage_in_bytes": 40 * MIB, "stat": "cache 5"}
    group(tmp_path / "memory", **files)
    assert cgroups.memory_limits() == [Limit(70 * MIB, 30 * MIB)]


def test_a_place_with_a_blank_in_its_name_is_found(proc: Proc, tmp_path: Path) -> None:
    proc("0::/\n", v2("/", f"{tmp_path}/with\\040blank"))
    group(tmp_path / "with blank", max=70 * MIB, current=MIB, stat="inactive_file 0")
    assert cgroups.memory_limits() == [Limit(70 * MIB, 69 * MIB)]


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [
        ("", ""),
        ("nonsense", "nonsense"),
        ("nonsense\n", "nonsense\n"),
        ("0::/a\n", ""),
        ("0::/a\n", "nonsense\n"),
        ("0::/a\n", "- cgroup2 a b\n"),
        ("0::/a\n", " - cgroup2 a b\n"),
        ("0::\n", "1 2 0:1 / /nowhere rw - cgroup2 a b\n"),
        ("0::/../a\n", "1 2 0:1 / /nowhere rw - cgroup2 a b\n"),
        ("0::/a\n", "1 2 0:1 a /nowhere rw - cgroup2 a b\n"),
    ],
)
def test_a_limit_that_cannot_be_read_is_none(proc: Proc, cgroup: str, mountinfo: str) -> None:
    proc(cgroup, mountinfo)
    assert cgroups.memory_limits() == []


def tasks(folder: Path, most: object, current: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pids.max").write_text(f"{most}\n")
    (folder / "pids.current").write_text(f"{current}\n")


def test_the_limits_of_tasks_are_those_of_every_group(proc: Proc, tmp_path: Path) -> None:
    proc("0::/a/b/c\n", v2("/", tmp_path))
    tasks(tmp_path / "a", 1000, 400)
    tasks(tmp_path / "a/b", "max", 20)
    tasks(tmp_path / "a/b/c", 100, 7)
    assert cgroups.task_limits() == [Limit(100, 93), Limit(1000, 600)]


def test_in_version_1_tasks_have_a_hierarchy_of_their_own(proc: Proc, tmp_path: Path) -> None:
    mounts = f"37 33 0:33 / {tmp_path}/pids rw - cgroup cgroup rw,pids\n"
    proc("5:pids:/x\n4:memory:/a\n0::/y\n", v1("/", tmp_path) + mounts)
    tasks(tmp_path / "pids/x", 100, 7)
    assert cgroups.task_limits() == [Limit(100, 93)]
    proc("5:pids:/x\n0::/y\n", v1("/", tmp_path))  # it is mounted nowhere
    assert cgroups.task_limits() == []


@pytest.fixture
def pod(proc: Proc, tmp_path: Path) -> Callable[[str], None]:
    """We are in a container of a pod, both with a limit.  Which groups die together is given."""

    def make(together: str) -> None:
        proc("0::/pods/pod/container\n", v2("/", tmp_path))
        limits = {"pods": "max", "pods/pod": 100 * MIB, "pods/pod/container": 50 * MIB}
        for path, size in limits.items():
            group(tmp_path / path, max=size, high=MIB, current=40 * MIB, stat="inactive_file 0")
            name = path.rpartition("/")[2]
            (tmp_path / path / "memory.oom.group").write_text(f"{int(name == together)}\n")
        group(
            tmp_path, stat="inactive_file 0"
        )  # the top group has no limit, and no memory.oom.group

    return make


@pytest.mark.parametrize(
    ("together", "left"),
    [("", []), ("container", [10, 60]), ("pod", [60]), ("pods", [])],
)
def test_limits_are_deadly_from_the_group_upwards_that_dies_together(
    pod: Callable[[str], None], together: str, left: list[int]
) -> None:
    pod(together)
    assert [limit.left for limit in cgroups.deadly_limits()] == [each * MIB for each in left]
    assert cgroups.dies_together("self") == bool(together)


def test_in_version_1_each_process_dies_alone(proc: Proc, tmp_path: Path) -> None:
    proc("4:memory:/a\n0::/y\n", v1("/", tmp_path))
    group(
        tmp_path / "memory/a", limit_in_bytes=MIB, usage_in_bytes=MIB, stat="total_inactive_file 0"
    )
    assert cgroups.deadly_limits() == []
    assert not cgroups.dies_together("self")


def test_groups_that_cannot_be_read_are_not_known_to_be_deadly(proc: Proc, tmp_path: Path) -> None:
    proc("0::/gone\n", v2("/", tmp_path / "nowhere"))
    assert cgroups.deadly_limits() == []
    assert not cgroups.dies_together("self")

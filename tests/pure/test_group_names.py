"""Which control groups a word of the user's means, by paths as systemd and container engines make
them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.kernel.proc.membership import Group, parse_groups
from gcorefs.kernel.proc.mountinfo import parse_mounts
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.group_names import (
    GroupNameError,
    Question,
    below,
    in_container,
    in_pod,
    in_unit,
    unit_of,
)

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
UID = "0f3a9c1e-5b7d-4e2f-8a6b-1c2d3e4f5a6b"

names = st.binary(min_size=1, max_size=20).filter(
    # The kernel puts the word behind the path of a removed group: a name like that reads the same.
    lambda name: not set(name) & set(b"\n/") and not name.endswith(b" (deleted)")
)
controllers = st.sampled_from([b"", b"memory", b"cpu,cpuacct", b"name=systemd", b"name=a"])


def v2(path: str) -> list[Group]:
    return parse_groups(f"0::{path}\n".encode())


@given(st.lists(st.tuples(controllers, st.lists(names, max_size=4))))
def test_every_line_is_a_group_with_its_whole_path(lines: list[tuple[bytes, list[bytes]]]) -> None:
    paths = [b"/" + b"/".join(parts) for _, parts in lines]
    text = b"".join(
        b"%d:%s:%s\n" % (number, names, path)
        for number, ((names, _), path) in enumerate(zip(lines, paths, strict=True))
    )
    groups = parse_groups(text)
    assert [group.parts for group in groups] == [parts for _, parts in lines]
    assert [group.controllers for group in groups] == [
        frozenset(names.split(b",")) for names, _ in lines
    ]


@given(st.lists(names, max_size=4))
def test_a_group_that_was_removed_has_its_name(parts: list[bytes]) -> None:
    path = b"/" + b"/".join(parts)
    assert parse_groups(b"0::%s (deleted)\n" % path) == parse_groups(b"0::%s\n" % path)


@pytest.mark.parametrize("text", [b"nonsense\n", b"0:\n", b"\n"])
def test_what_is_no_line_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_groups(text)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("nginx", "nginx.service"),
        ("nginx.service", "nginx.service"),
        ("session-3.scope", "session-3.scope"),
        ("user.slice", "user.slice"),
        ("org.foo", "org.foo.service"),
        ("getty@tty1", "getty@tty1.service"),
    ],
)
def test_a_name_without_a_suffix_is_a_service(text: str, unit: str) -> None:
    assert unit_of(text) == unit


@pytest.mark.parametrize("text", ["", "a/b", "/"])
def test_what_can_be_no_unit_is_refused(text: str) -> None:
    with pytest.raises(GroupNameError):
        unit_of(text)


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("nginx", "0::/system.slice/nginx.service"),
        ("nginx", "1:name=systemd:/system.slice/nginx.service"),
        ("nginx", "0::/system.slice/nginx.service/worker"),
        ("system.slice", "0::/system.slice/nginx.service"),
        ("app", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app.service"),
        ("cpu", "0::/system.slice/_cpu.service"),
        ("getty@tty1", "0::/system.slice/system-getty.slice/getty@tty1.service"),
    ],
)
def test_a_process_is_in_its_unit(unit: str, line: str) -> None:
    assert in_unit(unit)(parse_groups(f"5:memory:/\n{line}\n".encode()))


@pytest.mark.parametrize(
    "line",
    [
        "0::/",
        "0::/system.slice/nginx2.service",
        "0::/system.slice/mynginx.service",
        "0::/nginx",
        # A group of an administrator's, in a hierarchy that is not systemd's.
        "4:memory:/nginx.service",
    ],
)
def test_a_process_is_in_no_other_unit(line: str) -> None:
    assert not in_unit("nginx")(parse_groups(f"{line}\n".encode()))


CONTAINERS = [
    "/system.slice/docker-{}.scope",
    "/docker/{}",
    "/docker/{}/init.scope",
    "/kubepods.slice/kubepods-pod1.slice/cri-containerd-{}.scope",
    "/kubepods.slice/kubepods-burstable.slice/crio-{}.scope",
    "/kubepods/besteffort/pod1/{}",
    "/machine.slice/libpod-{}.scope/container",
    "/user.slice/user-0.slice/user@0.service/user.slice/libpod-{}.scope",
    "/libpod_parent/libpod-{}",
    "/../../docker-{}.scope",
    "/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{}",
]


@pytest.mark.parametrize("path", CONTAINERS)
@pytest.mark.parametrize("word", [ID, ID[:12], ID[:13].upper(), f"containerd://{ID}"])
def test_a_process_is_in_its_container(path: str, word: str) -> None:
    assert in_container(word)(v2(path.format(ID)))
    assert in_container(word)(parse_groups(f"4:memory:{path.format(ID)}\n".encode()))
    assert not in_container(word)(v2(path.format(OTHER)))


def test_who_watches_a_container_is_not_in_it() -> None:
    for name in ("crio-conmon", "libpod-conmon"):
        assert not in_container(ID)(v2(f"/machine.slice/{name}-{ID}.scope"))


def test_a_container_in_a_container_is_in_both() -> None:
    groups = v2(f"/docker/{ID}/kubelet/kubepods/pod1/{OTHER}")
    assert in_container(ID)(groups)
    assert in_container(OTHER)(groups)


PODS = [
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_}.slice/crio-1.scope",
    "/kubepods.slice/kubepods-pod{_}.slice",
    "/kubepods/besteffort/pod{-}/0123456789abcdef",
    "/kubelet/kubepods/pod{-}",
    "/system.slice/containerd.service/kubepods-burstable-pod{_}.slice:cri-containerd:1/x",
]


@pytest.mark.parametrize("path", PODS)
@pytest.mark.parametrize("word", [UID, UID.replace("-", "_"), UID[:14], f"pod{UID}", UID.upper()])
def test_a_process_is_in_its_pod(path: str, word: str) -> None:
    def groups(uid: str) -> list[Group]:
        return v2(path.replace("{_}", uid.replace("-", "_")).replace("{-}", uid))

    assert in_pod(word)(groups(UID))
    assert not in_pod(word)(groups("1" + UID[1:]))


def test_a_pod_of_podman_or_of_a_file_has_no_hyphens() -> None:
    assert in_pod(ID[:12])(v2(f"/machine.slice/machine-libpod_pod_{ID}.slice/libpod-1.scope"))
    assert in_pod(ID[:32])(v2(f"/kubepods.slice/kubepods-pod{ID[:32]}.slice"))


@pytest.mark.parametrize("ask", [in_container, in_pod])
@pytest.mark.parametrize(
    "word", ["", ID[:11], ID + "0", "nginx", "0123456789ag", "é" * 12, "٣" * 12]
)
def test_what_is_no_id_is_refused(ask: object, word: str) -> None:
    assert callable(ask)
    with pytest.raises(
        GroupNameError, match=r"is no id of a (container|pod): 12 to 64 hexadecimal"
    ):
        ask(word)


MOUNTS = [
    *parse_mounts(
        b"30 1 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        b"31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        b"34 33 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        b"35 33 0:31 /docker/me /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
]
PURE = [*parse_mounts(b"31 22 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (text, below(text, PURE))
        for text in (
            "a/b", "/a/b", "a/b/", "/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a//b/.", "/a/x/../b"
        )
    ],
)  # fmt: skip
def test_a_path_means_a_group_and_those_below_it(text: str, question: Question) -> None:
    assert question(v2("/a/b"))
    assert question(v2("/a/b/c"))
    for path in ("/a", "/a/bc", "/", "/b"):
        assert not question(v2(path)), text


def test_the_top_has_every_process() -> None:
    for text in ("/", "/sys/fs/cgroup", "."):
        assert below(text, PURE)(v2("/"))
        assert below(text, PURE)(v2("/a"))


def test_a_path_below_a_hierarchy_means_a_group_of_that_one() -> None:
    memory = below("/sys/fs/cgroup/memory/a", MOUNTS)
    assert memory(parse_groups(b"5:memory:/docker/me/a/b\n"))
    assert not memory(parse_groups(b"6:cpu,cpuacct:/docker/me/a\n"))
    assert not memory(parse_groups(b"5:memory:/a\n"))
    assert below("cpu,cpuacct/a", MOUNTS)(parse_groups(b"6:cpu,cpuacct:/a\n"))
    assert below("unified/a", MOUNTS)(parse_groups(b"0::/a\n"))
    # As /proc/PID/cgroup has it, of any hierarchy.
    for line in (b"5:memory:/a\n", b"0::/a\n", b"1:name=systemd:/a/b\n"):
        assert below("/a", MOUNTS)(parse_groups(line))


@pytest.mark.parametrize("text", ["..", "../..", "/../a", "//../a/b", "a/../../b"])
def test_a_path_that_leads_upwards_is_refused(text: str) -> None:
    """It would be that of another group: /proc shows one outside of a cgroup namespace so."""
    with pytest.raises(GroupNameError, match="leads out of our cgroup namespace"):
        below(text, MOUNTS)


def test_no_path_is_refused() -> None:
    with pytest.raises(GroupNameError, match=re.escape("a path cannot be empty")):
        below("", PURE)

"""What mount.gcorefs makes of the words that mount(8) gives it."""

import click
import pytest

from gcorefs.cli.mount_gcorefs import Request, request
from gcorefs.errors import GcorefsError
from gcorefs.mount.options import Options, parse


def options(text: str, *words: str) -> list[str]:
    return request(["gcorefs", "/mnt/gcore", *words, "-o", text]).options


def test_without_options_it_is_a_mount_with_the_name_that_fstab_has() -> None:
    assert request(["gcorefs", "/mnt/gcore"]) == Request("/mnt/gcore", ["fsname=gcorefs"])
    assert request(["none", "/mnt/gcore"]).options == ["fsname=none"]
    assert options("fsname=x") == ["fsname=x"]


def test_a_name_that_would_be_two_options_is_none() -> None:
    assert request(["a,b", "/mnt/gcore"]).options == []
    assert request(["", "/mnt/gcore"]).options == []


def test_what_mount_and_systemd_read_is_no_option_of_ours() -> None:
    for_others = (
        "rw,defaults,auto,noauto,nofail,_netdev,user,nouser,users,owner,group,relatime,"
        "x-systemd.automount,x-systemd.requires=dev-fuse.device,x-gvfs-hide,X-mount.mkdir,"
        "comment=systemd.automount"
    )
    assert options(for_others) == ["fsname=gcorefs"]
    ours, _ = parse(options(f"{for_others},user_files=7,hold=copy"))
    assert (ours.user_files, ours.hold) == (7, "copy")


def test_options_of_ours_and_of_fuse_are_those_of_the_mount() -> None:
    ours, fuse = parse(options("allow_other,noexec,idle_timeout=5,,max_stop=9"))
    assert ours == Options(idle_timeout=5.0, max_stop=9.0)
    assert {"allow_other", "noexec", "fsname=gcorefs"} <= fuse


def test_several_lists_are_one() -> None:
    words = ["gcorefs", "/mnt/gcore", "-o", "rw,hold=copy", "-o", "noauto,stop=gentle"]
    assert request(words).options == ["hold=copy", "stop=gentle", "fsname=gcorefs"]


@pytest.mark.parametrize(
    "option", ["hodl=copy", "exec", "suid", "dev", "kernel_cache", "userfiles"]
)
def test_an_unknown_option_is_refused_unless_the_caller_is_sloppy(option: str) -> None:
    with pytest.raises(GcorefsError, match=option):
        parse(options(option))
    assert options(f"{option},hold=copy", "-s") == ["hold=copy", "fsname=gcorefs"]


def test_flags_of_mount_stand_anywhere() -> None:
    expected = Request("/mnt/gcore", ["hold=copy", "fsname=gcorefs"], True, True)
    for words in (
        ["gcorefs", "/mnt/gcore", "-fnsv", "-o", "hold=copy", "-t", "fuse.gcorefs"],
        ["-v", "-f", "-o", "hold=copy", "gcorefs", "/mnt/gcore"],
        ["gcorefs", "-o", "hold=copy", "-f", "/mnt/gcore", "-v"],
    ):
        assert request(words) == expected


@pytest.mark.parametrize(
    "words",
    [[], ["gcorefs"], ["gcorefs", "/a", "/b"], ["gcorefs", "/a", "-x"], ["gcorefs", "/a", "-o"]],
)
def test_other_words_are_wrong_usage(words: list[str]) -> None:
    with pytest.raises(click.UsageError, match=r"usage: mount\.gcorefs"):
        request(words)


@pytest.mark.parametrize("words", [["-o", "remount,hold=copy"], ["-N", "/proc/1/ns/mnt"]])
def test_what_cannot_be_had_is_said(words: list[str]) -> None:
    with pytest.raises(GcorefsError):
        request(["gcorefs", "/mnt/gcore", *words])

"""The names in a bundle, and the tar file itself."""

import errno
import io
import os
import tarfile
import threading
import tracemalloc
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.bundle.content import Content
from gcorefs.bundle.manifest import Placed
from gcorefs.bundle.mapped_files import Kept
from gcorefs.bundle.places import Places
from gcorefs.bundle.scripts import for_gdb, for_lldb
from gcorefs.bundle.tarball import Tarball
from gcorefs.errors import GcorefsError

PARTS = st.sampled_from(["..", ".", "", "a", "b", "a\nb", "\udcff", " (deleted)"])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)


class Memory:
    """A sink."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        self.data += data

    def commit(self) -> None:
        pass

    def abort(self) -> None:
        pass


class FullError(GcorefsError, OSError):
    pass


class Full(Memory):
    def write(self, data: memoryview) -> None:
        raise FullError


@given(st.lists(PATHS, max_size=8))
def test_each_path_has_a_place_of_its_own_in_the_bundle(paths: list[str]) -> None:
    places = Places()
    taken = [places.take(path) for path in paths]
    names = [name for path in paths if (name := places.take_name(path))]
    found = taken + names
    assert len(set(found)) == len(found)
    for each in found:
        words = each.split("/")
        assert words[0] in ("root", "others")
        assert not {"", ".", ".."} & set(words)
        # No file is where another one needs a folder.
        assert not any(other.startswith(f"{each}/") for other in found)


@given(st.lists(st.tuples(st.sampled_from(["take", "take_name", "folders_of"]), PATHS), max_size=9))
def test_no_file_is_also_a_folder(calls: list[tuple[str, str]]) -> None:
    places = Places()
    files, folders = set[str](), set[str]()
    for verb, path in calls:
        found = getattr(places, verb)(path)
        if verb == "folders_of":
            folders.update(found)
        elif found:
            assert found not in files
            files.add(found)
            folders.update(str(each) for each in PurePosixPath(found).parents)
    assert files.isdisjoint(folders)


def test_folders_below_a_file_are_none() -> None:
    places = Places()
    assert places.take("/bin/program") == "root/bin/program"
    assert places.folders_of("/bin/program/x/../y") == ["root", "root/bin"]


DEEP = 1400 * "/i" + "/libx.so"


def test_paths_of_many_folders_take_little_memory() -> None:
    places = Places()
    tracemalloc.start()
    try:
        found = [places.take(f"/{number}{DEEP}") for number in range(50)]
        named = [places.take_name(f"/name/{number}{DEEP}") for number in range(50)]
        through = [places.folders_of(f"/{number}{DEEP}/../x") for number in range(50, 100)]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[0] == f"root/0{DEEP}"
    assert found[-1] == "others/43/libx.so"
    assert not any(named)
    assert sum(map(len, through)) < 10_000
    assert most < 50 << 20


@pytest.mark.parametrize("length", [2994, 2995, 9000])
def test_a_path_that_nothing_could_unpack_is_elsewhere(length: int) -> None:
    path = "/a/" + (length - 5) * "b" + "/c"
    is_short = len("root" + path) <= 3000
    assert Places().take(path) == (f"root{path}" if is_short else "others/1/c")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/usr/lib/libc.so.6", "root/usr/lib/libc.so.6"),
        ("//usr/../../../etc/passwd", "root/etc/passwd"),
        ("../../x", "root/x"),
        ("/a/\udcff\n", "root/a/\udcff\n"),
    ],
)
def test_a_place_is_the_path_below_root(path: str, place: str) -> None:
    assert Places().take(path) == place


def test_the_second_file_of_a_path_is_elsewhere() -> None:
    places = Places()
    found = [places.take(path) for path in ("/a/b", "/a/b", "/a", "/a/b/c", "/a/b")]
    assert found == ["root/a/b", "others/1/a/b", "others/2/a", "others/3/a/b/c", "others/4/a/b"]
    assert places.take_name("/a/b") == places.take_name("/a") == ""
    assert places.take_name("/lib/b") == "root/lib/b"


def test_a_name_with_dots_needs_the_folders_before_them() -> None:
    places = Places()
    assert places.folders_of("/opt/x/lib/libx.so") == []
    assert places.folders_of("/opt/x/bin/../lib/libx.so") == [
        "root", "root/opt", "root/opt/x", "root/opt/x/bin", "root/opt/x/lib",
    ]  # fmt: skip


def test_zeros_take_the_place_of_what_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    with file.open("rb") as short, file.open("ab") as not_readable:
        first = Kept(b"/a", short.fileno(), 5, False, "", False, False, False, (1, 1))
        second = Kept(b"/b", not_readable.fileno(), 2, False, "", False, False, False, (1, 2))
        third = Kept(b"/c", short.fileno(), 3, False, "", False, False, False, (1, 3))
        content = Content()
        assert content.read(first, 0, 1 << 20) == b"abc\0\0"
        assert content.read(first, 4, 1 << 20) == b"\0"
        assert content.read(first, 5, 1 << 20) == b""
        assert content.read(second, 0, 1 << 20) == b"\0\0"
        assert content.read(third, 1, 1) == b"b"
        content.close()
    assert content.lost == {
        first: "it became shorter while it was read",
        second: os.strerror(errno.EBADF),
    }


def test_a_file_system_that_does_not_answer_is_waited_for_once() -> None:
    end = threading.Event()
    asked: list[int] = []

    def read(number: int, length: int, offset: int) -> bytes:
        asked.append(number)
        if number < 10:
            end.wait()
        return bytes([number]) * length

    files = [
        Kept(b"/a", number, 3, False, "", False, False, False, (device, number))
        for device, number in ((1, 1), (1, 2), (1, 3), (2, 11), (2, 12))
    ]
    content = Content(read, patience=0.01)
    try:
        found = [content.read(each, 0, 3) for each in files]
    finally:
        end.set()
        content.close()
    assert found == [bytes(3)] * 3 + [b"\x0b" * 3, b"\x0c" * 3]
    assert asked == [1, 11, 12]
    assert [*content.lost.values()] == [
        "its file system has not answered for 0 s",
        *["its file system has not answered in time before"] * 2,
    ]


def test_a_file_system_that_nearly_does_not_answer_does_not_take_for_ever() -> None:
    """It answers every read just before the time is over."""
    time_of_all = iter(range(0, 1000, 29))
    reads = 0

    def read(number: int, length: int, offset: int) -> bytes:
        nonlocal reads
        reads += 1
        return b"x" * 4096

    file = Kept(b"/a", 1, 1 << 30, False, "", False, False, False, (1, 1))
    content = Content(read, clock=lambda: float(next(time_of_all)))
    assert content.read(file, 0, 1 << 20) == b"x" * 4096 * reads + bytes((1 << 20) - 4096 * reads)
    content.close()
    assert reads == 2
    assert content.lost == {file: "its file system has not answered in time before"}


def kept(path: bytes, is_program: bool = False) -> Kept:
    return Kept(path, -1, 1, True, "", False, False, is_program, (1, 1))


def test_no_name_is_a_command_of_a_script() -> None:
    files = [
        Placed(kept(b"/a\nshell x", True), "root/a\nshell x"),
        Placed(kept(b"/l b\nshell y/c"), "root/l b\nshell y/c"),
        Placed(kept(b"/l 'b/\xff;/c"), "root/l 'b/\udcff;/c"),
    ]
    assert for_gdb(files).splitlines()[1:] == [
        b"set auto-load off",
        b"set sysroot root",
        b"set solib-search-path root/l 'b/\xff;",
        b"file program",
        b"core-file core",
    ]
    assert for_lldb(files).splitlines()[3:] == [
        b"settings append target.exec-search-paths root/l\\ \\'b/\\\xff\\;",
        b"target create --core core program",
    ]
    assert b"file root/my\\ prog\n" in for_gdb([Placed(kept(b"/my prog", True), "root/my prog")])


def test_all_bytes_and_names_come_back() -> None:
    sink = Memory()
    data = os.urandom((3 << 20) + 5)
    tarball = Tarball(sink, "top", 1.5)
    tarball.add("core", len(data), lambda at, length: data[at : at + length])
    name = "root/" + "x" * 300 + "/\udcff\n"
    tarball.add_bytes(name, b"abc", 0o700)
    tarball.add_link("root/lib/libx", name)
    tarball.end()
    tarball.close()
    with tarfile.open(fileobj=io.BytesIO(sink.data), errors="surrogateescape") as tar:
        members = {each.name: each for each in tar}
        assert [*members] == [
            "top", "top/core", "top/root", "top/root/" + "x" * 300, f"top/{name}", "top/root/lib",
            "top/root/lib/libx",
        ]  # fmt: skip
        for path, expected in (("top/core", data), (f"top/{name}", b"abc")):
            file = tar.extractfile(path)
            assert file is not None
            assert file.read() == expected
        modes = [(each.mode, each.uid, each.gid, each.mtime) for each in members.values()]
        assert modes == [(mode, 0, 0, 1) for mode in (0o700, 0o600, 0o700, 0o700, 0o700, 0o700,
                                                      0o777)]  # fmt: skip
        assert members["top/root/lib/libx"].linkname == "../" + name.removeprefix("root/")


def test_an_error_of_the_sink_is_passed_on_and_nothing_is_written_after_it() -> None:
    tarball = Tarball(Full(), "top", 0)
    with pytest.raises(FullError):
        tarball.add("core", 4 << 20, lambda at, length: bytes(length))
    tarball.close()
    sink = Memory()
    tarball = Tarball(sink, "top", 0)
    tarball.add_bytes("a", b"abc")
    tarball.close()
    del tarball
    assert not sink.data


def test_no_folder_continues_a_line_for_gdb() -> None:
    files = [
        Placed(kept(b"/bin/program", True), "root/bin/program"),
        Placed(kept(b"/lib\\/libx.so"), "root/lib\\/libx.so"),
    ]
    assert not any(line.endswith(b"\\") for line in for_gdb(files).splitlines())

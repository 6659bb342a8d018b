"""A mapped library whose path no longer leads to it: the core has all of it, and debuggers unwind
through it.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.kernel.proc import current_call
from tests.conftest import TARGETS, Target
from tests.mounted.conftest import eventually
from tests.readers.corefile import Core
from tests.readers.debuggers import eu_stack, gdb, run

NR_PAUSE = 34

Lose = Callable[[Path], None]


def build_library(path: Path, *words: str) -> Path:
    # It can be unwound only by its .eh_frame, like ordinary libraries.
    flags = ["-O1", "-fomit-frame-pointer", "-shared", "-fPIC", *words]
    subprocess.run(["gcc", *flags, "-o", path, TARGETS / "library.c"], check=True)
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return build_library(tmp_path / "library.so")


def start(spawn: Callable[..., Target], library: Path) -> Target:
    target = spawn("libuser", library)
    while (call := current_call.system_call(target.pid, target.pid)) is None or call[0] != NR_PAUSE:
        time.sleep(0.001)
    return target


def code_of(pid: int, library: Path) -> tuple[int, int]:
    """The place where its code is mapped."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, *_ = line.split()
        if str(library.name) in line and "x" in permissions:
            start, end = span.split("-")
            return int(start, 16), int(end, 16)
    raise LookupError(library)


def memory_rule(core: Core) -> str:
    rule: str = json.loads(core.own_notes[0].desc)["policy"]["memory"]
    return rule


def addresses(stack: str) -> list[str]:
    """The addresses of the frames, the innermost first; only frames in a file have names."""
    return [line.split()[1] for line in stack.splitlines() if line.startswith("#")]


def unlink(library: Path) -> None:
    library.unlink()


def replace(library: Path) -> None:
    """Replace it as a package manager does."""
    other = build_library(library.with_name("other.so"), "-DOTHER", "-Wl,--build-id=sha1", "-O0")
    other.rename(library)


def move_away(library: Path) -> None:
    """Move it to a place to which no path leads: below another mount."""
    folder = library.with_name("folder")
    folder.mkdir()
    library.rename(folder / library.name)
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)


def change_in_place(library: Path) -> None:
    with library.open("r+b") as file:
        file.seek(library.stat().st_size)
        file.write(b"more")
    later = time.time() + 3600
    os.utime(library, (later, later))


def change_as_before(library: Path) -> None:
    """As `cp -p`, rsync and tar write a file in place: only its ctime tells (inode(7))."""
    before = library.stat()
    soon = time.time() + 3  # the process may have started in this second, and clocks are coarse
    eventually(lambda: time.time() > soon)
    with library.open("r+b") as file:
        file.seek(before.st_size)
        file.write(b"more")
    os.utime(library, (before.st_atime, before.st_mtime))


@pytest.fixture(params=[unlink, replace, move_away, change_in_place, change_as_before])
def lose(request: pytest.FixtureRequest, library: Path) -> Lose:
    def undo() -> None:
        folder = library.with_name("folder")
        if folder.exists():
            subprocess.run(["umount", "--lazy", folder], check=True)

    deed: Callable[[Path], None] = request.param
    if deed is move_away:
        request.addfinalizer(undo)
    return deed


def assert_holds_code(path: Path, span: tuple[int, int], expected: bytes) -> None:
    core = Core(path)
    assert core.read(*span) == expected
    assert core.segment(span[0]).filesz == span[1] - span[0]


def test_its_code_is_in_the_core_and_is_unwound(
    spawn: Callable[..., Target], dump: Callable[..., Path], library: Path, lose: Lose
) -> None:
    target = start(spawn, library)
    span = code_of(target.pid, library)
    with open(f"/proc/{target.pid}/mem", "rb") as memory:
        memory.seek(span[0])
        expected = memory.read(span[1] - span[0])
    alive = addresses(run("eu-stack", "-p", target.pid)[0])
    lose(library)
    path = dump(target.pid)
    assert_holds_code(path, span, expected)
    program = Path(target.argv[0])
    (stack,) = eu_stack(program, path).values()
    assert addresses(stack) == alive
    assert " main" in stack
    # gdb opens the file that it finds by name; without a file it unwinds by the bytes in the core.
    if lose is unlink:
        assert " main (" in gdb(program, path, "--", "backtrace")


def test_the_kernel_s_choice_is_to_be_had(
    spawn: Callable[..., Target], dump: Callable[..., Path], library: Path
) -> None:
    target = start(spawn, library)
    start_, _ = code_of(target.pid, library)
    library.unlink()
    core = Core(dump(target.pid, memory="kernel"))
    assert core.segment(start_).filesz == 0
    assert memory_rule(core) == "kernel"


def test_a_library_that_is_there_is_left_to_its_file(
    spawn: Callable[..., Target], dump: Callable[..., Path], library: Path
) -> None:
    target = start(spawn, library)
    start_, _ = code_of(target.pid, library)
    core = Core(dump(target.pid))
    assert core.segment(start_).filesz == 0
    assert memory_rule(core) == "filter"


def test_a_hard_link_elsewhere_does_not_make_it_found(
    spawn: Callable[..., Target], dump: Callable[..., Path], library: Path, tmp_path: Path
) -> None:
    """Its link count is not 0, but its path leads nowhere."""
    target = start(spawn, library)
    span = code_of(target.pid, library)
    os.link(library, tmp_path / "link.so")
    replace(library)
    core = Core(dump(target.pid))
    assert core.segment(span[0]).filesz == span[1] - span[0]


def test_a_process_in_a_chroot_finds_its_files_by_the_path_that_maps_shows(
    build: Callable[[str], Path], dump: Callable[..., Path], library: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for name in ("lib", "lib64", "usr", "proc", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(build("libuser"), root / "libuser")
    shutil.copy(library, root / "library.so")
    text = subprocess.check_output(["ldd", root / "libuser"], text=True)
    for word in text.split():
        if word.startswith("/"):
            place = root / word.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, place)
    target = Target(["chroot", str(root), "/libuser", "/library.so"])
    try:
        start_, _ = code_of(target.pid, library)
        assert Core(dump(target.pid)).segment(start_).filesz == 0
    finally:
        target.kill()


def test_data_that_was_changed_in_place_is_left_to_its_file(
    spawn: Callable[..., Target], dump: Callable[..., Path], tmp_path: Path
) -> None:
    """A database maps its file, and other processes write to it: the file has every byte."""
    target = spawn("memory", tmp_path)
    (region,) = [r for r in target.truth["regions"] if r["name"] == "file_short"]
    later = time.time() + 3600
    os.utime(region["path"], (later, later))
    core = Core(dump(target.pid))
    assert core.segment(int(region["start"], 16)).filesz == 0


def test_the_build_id_of_a_program_whose_notes_are_not_in_its_first_page(
    dump: Callable[..., Path], tmp_path: Path
) -> None:
    """The path of its interpreter is long, and comes before the notes."""
    program = tmp_path / "program"
    linker = "/lib64/" + "./" * 1900 + "ld-linux-x86-64.so.2"
    words = ["-Wl,--build-id=sha1", f"-Wl,--dynamic-linker={linker}", "-g", "-pthread"]
    subprocess.run(["gcc", *words, "-o", program, TARGETS / "threads.c"], check=True)
    build_id = re.search("Build ID: ([0-9a-f]{40})", run("readelf", "-n", program)[0])
    assert build_id is not None
    target = Target([str(program), "1"])
    try:
        path, kernels = dump(target.pid), Core(dump(target.pid, memory="kernel"))
        core = Core(dump(target.pid))
    finally:
        target.kill()
    first = min(start for start, _, name in files(core) if name == bytes(program))
    assert kernels.segment(first).filesz == 4096
    size = core.segment(first).filesz
    assert size == 8192
    assert core.read(first, first + size) == program.read_bytes()[:size]
    assert build_id[1] in run("eu-unstrip", "-n", "--core", path)[0]


def files(core: Core) -> list[tuple[int, int, bytes]]:
    """Start, end and path of each entry of NT_FILE."""
    desc = core.note("NT_FILE")
    count, _ = struct.unpack_from("<QQ", desc)
    names = desc[16 + 24 * count :].split(b"\0")
    rows = struct.iter_unpack("<QQQ", desc[16 : 16 + 24 * count])
    return [(start, end, name) for (start, end, _), name in zip(rows, names, strict=False)]

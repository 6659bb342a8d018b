"""`gcorefs bundle`: it opens where none of the files of the process are to be found."""

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcorefs.bundle.mapped_files import MappedFiles
from gcorefs.steps import Step
from tests.conftest import GCOREFS, TARGETS, Target, text_of, wait_until_asleep
from tests.mounted.conftest import (
    AS_NOBODY,
    Pause,
    assert_refused,
    eventually,
    gcorefs,
    is_free,
    reach_of,
    run,
)
from tests.readers import debuggers
from tests.readers.test_lost_files import build_library
from tests.readers.test_lost_files import start as start_user
from tests.tuned import program

Spawn = Callable[..., Target]
Start = Callable[..., Target]

BACKTRACE = "thread apply all backtrace"


def bundle_of(target: Target, folder: Path, *words: object) -> Path:
    """The bundle of a target, unpacked in an empty directory.  gcorefs complains of nothing."""
    file = folder / "X.tar.zst"
    result = gcorefs("bundle", target.pid, "-o", file, *words)
    assert (result.returncode, result.stderr) == (0, b"")
    assert is_free(target.pid)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return unpack(file, folder / "unpacked")


def unpack(file: Path, folder: Path) -> Path:
    """The only directory in a tar file."""
    folder.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", file, "-C", folder], check=True, timeout=60)
    (top,) = folder.iterdir()
    return top


def manifest_of(top: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((top / "manifest.json").read_text())
    return found


def stacks_in(text: str) -> dict[int, list[str]]:
    """By thread, without the directories of libraries."""
    found: dict[int, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"Thread \d+ \(.*?LWP (\d+)\).*:$", line):
            found[int(match[1])] = []
        elif found and line.startswith("#"):  # gdb begins with a frame of one thread
            [*found.values()][-1].append(re.sub(r" from \S*/", " from ", line))
    return found


def live_stacks(*where: object) -> dict[int, list[str]]:
    return stacks_in(debuggers.gdb(*where, "--", BACKTRACE))


def in_bundle(top: Path, *commands: str) -> str:
    """What gdb says with the script of a bundle, started from elsewhere."""
    words = ["-nx", "-batch", "-iex", "set debuginfod enabled off"]
    for command in commands:
        words += ["-ex", command]
    result = run("env", "-C", "/", top / "open-gdb", *words)
    assert result.returncode == 0, result
    return result.stdout.decode(errors="replace")


def libraries(top: Path) -> list[Path]:
    """Those that gdb has opened."""
    text = in_bundle(top, "info sharedlibrary")
    return [top / name for name in re.findall(r"^0x\S+ +0x\S+ +\S+ +(?:\(\*\) +)?(.+)$", text,
                                                   re.MULTILINE)]  # fmt: skip


def build_id(path: Path) -> str:
    text = subprocess.run(["readelf", "-n", path], check=True, capture_output=True, text=True)
    match = re.search(r"Build ID: ([0-9a-f]+)", text.stdout)
    assert match
    return match[1]


def assert_exact(top: Path, manifest: dict[str, Any], originals: dict[str, Path]) -> None:
    """The files are those of the process, and the manifest says so.  `originals`: copies of those
    that were lost."""
    assert manifest["core"] == {"in_bundle": "core", "size": (top / "core").stat().st_size}
    assert manifest["not_taken"] == []
    for each in manifest["files"]:
        original = originals.get(each["path"]) or Path(each["path"])
        packed = top / each["in_bundle"]
        assert packed.read_bytes() == original.read_bytes()
        assert each["size"] == original.stat().st_size
        assert each["build_id"] == build_id(original)
        assert each["deleted"] == (each["path"] in originals)
        assert not each["changed"]


def test_a_process_whose_files_were_deleted(
    build: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    library = build_library(gone / "library.so", "-Wl,--build-id=sha1")
    program = Path(shutil.copy(build("libuser"), gone / "prog ram"))
    target = start(program, library)
    wait_until_asleep(target.pid)
    live = live_stacks("-p", target.pid)
    saved = tmp_path / "saved"
    shutil.copytree(gone, saved)
    shutil.rmtree(gone)
    top = bundle_of(target, tmp_path)
    manifest = manifest_of(top)
    lost = {str(gone / each.name): each for each in saved.iterdir()}
    assert lost.keys() <= {each["path"] for each in manifest["files"]}
    assert_exact(top, manifest, lost)
    assert manifest["program"] == f"root{program}"
    target.kill()
    assert stacks_in(in_bundle(top, BACKTRACE)) == live
    assert [line.split()[3] for line in live[target.pid]][1:] == [
        "sleep_in_library", "in_library", "main",
    ]  # fmt: skip
    found = libraries(top)
    assert len(found) >= 3
    assert all(each.is_relative_to(top / "root") for each in found)
    text = debuggers.run("env", "-C", "/", top / "open-lldb", "--batch", "-o", "bt all")[0]
    assert re.findall(r"library\.so`(\w+)", text)[:2] == ["sleep_in_library", "in_library"]
    assert "prog ram`main" in text


def test_a_library_that_was_changed_in_place_is_told(
    build: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    library = build_library(tmp_path / "library.so", "-Wl,--build-id=sha1")
    target = start(build("libuser"), library)
    wait_until_asleep(target.pid)
    later = time.time() + 3600
    os.utime(library, (later, later))
    top = bundle_of(target, tmp_path)
    changed = [each["path"] for each in manifest_of(top)["files"] if each["changed"]]
    assert changed == [str(library)]


# The program and its libraries lie on a file system that only its own mount namespace has, and by
# other paths than here.
IN_A_CONTAINER = """
mount -t tmpfs none "$1" && mkdir -p "$1/lib" "$1/lib64" "$1/usr/lib" "$1/proc" &&
mount -t proc none "$1/proc" &&
cp "$2" "$1/inside" && cp "$3" "$1$3" && cp "$4" "$1/lib/libc.so.6" &&
echo ID=inside > "$1/usr/lib/os-release" && exec chroot "$1" /inside 2
"""


def test_a_process_of_another_mount_namespace(
    build: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    jail = tmp_path / "jail"
    jail.mkdir()
    program = build("threads")
    text = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    (libc,) = re.findall(r"libc\.so\.6 => (\S+)", text)
    (linker,) = re.findall(r"^\s+(/lib\S*/ld-\S+)", text, re.MULTILINE)
    words = ("sh", "-c", IN_A_CONTAINER, "sh", jail, program, linker, libc)
    target = start("unshare", "--mount", *words)
    wait_until_asleep(target.pid)
    assert not (jail / "inside").exists()
    proc = f"/proc/{target.pid}"
    live = live_stacks("-iex", f"set sysroot {proc}/root", "-p", target.pid, f"{proc}/exe")
    top = bundle_of(target, tmp_path)
    manifest = manifest_of(top)
    inside = {"/inside": program, linker: Path(linker), "/lib/libc.so.6": Path(libc)}
    assert {each["path"]: top / each["in_bundle"] for each in manifest["files"]} == {
        path: top / f"root{path}" for path in inside
    }
    for each in manifest["files"]:
        assert (top / each["in_bundle"]).read_bytes() == inside[each["path"]].read_bytes()
        assert each["build_id"] == build_id(inside[each["path"]])
        assert not each["deleted"]
    assert (top / "proc" / "os-release").read_text() == "ID=inside\n"
    target.kill()
    assert stacks_in(in_bundle(top, BACKTRACE)) == live
    assert len(live) == 3
    for function in target.truth["functions"]:
        assert function in "".join(live[target.truth["threads"][0]["tid"]])


def test_names_with_odd_bytes_stay_in_the_bundle(
    build: Callable[[str], Path], start: Start, tmp_path: Path
) -> None:
    folder = os.fsencode(tmp_path) + b"/a\nb \xff\\012 '$(x)\""
    os.mkdir(folder)
    program = folder + b"/..dots"
    shutil.copy(build("threads"), os.fsdecode(program))
    target = start(os.fsdecode(program), 1)
    wait_until_asleep(target.pid)
    os.unlink(program)
    top = bundle_of(target, tmp_path)
    assert os.fsencode(manifest_of(top)["program"]) == b"root" + program
    assert (top / "program").resolve() == Path(os.fsdecode(os.fsencode(top) + b"/root" + program))
    assert (top / "program").read_bytes() == build("threads").read_bytes()
    assert "in thread_main" in in_bundle(top, BACKTRACE)


def test_a_library_is_found_by_the_name_that_the_linker_knows(spawn: Spawn, tmp_path: Path) -> None:
    for name in ("bin", "lib"):
        (tmp_path / name).mkdir()
    build_library(tmp_path / "lib" / "library.so.1.2", "-Wl,--build-id=sha1")
    (tmp_path / "lib" / "library.so.1").symlink_to("library.so.1.2")
    known = f"{tmp_path}/bin/../lib/library.so.1"
    target = start_user(spawn, Path(known))
    shutil.rmtree(tmp_path / "lib")
    top = bundle_of(target, tmp_path)
    (found,) = (each for each in manifest_of(top)["files"] if "library" in each["path"])
    assert (found["path"], found["names"]) == (f"{tmp_path}/lib/library.so.1.2", [known])
    (shown,) = (each for each in libraries(top) if "library" in each.name)
    assert shown.samefile(top / found["in_bundle"])
    assert str(shown) == f"{top}/root{known}"


def test_a_32_bit_process(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("threads32", 1)
    wait_until_asleep(target.pid)
    top = bundle_of(target, tmp_path)
    stacks = stacks_in(in_bundle(top, BACKTRACE))
    (thread,) = target.truth["threads"]
    for function in target.truth["functions"]:
        assert function in "".join(stacks[thread["tid"]])
    found = libraries(top)
    assert found
    assert all(each.is_relative_to(top / "root") for each in found)


def test_a_second_look_finds_what_the_process_has_by_then(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    """It runs another program by now, and a file has lost its name."""
    program = tmp_path / "other"
    shutil.copy(build("threads"), program)
    with (
        contextlib.closing(MappedFiles(1 << 30)) as files,
        subprocess.Popen(["sh", "-c", 'read line; exec "$0" 1', program], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE) as process,
    ):  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        eventually(lambda: b"libc" in Path(f"/proc/{process.pid}/maps").read_bytes())
        files.look(process.pid)
        (first,) = (each.path for each in files.kept if each.is_program)
        assert first == os.fsencode(Path("/bin/sh").resolve())
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert b"pid" in process.stdout.readline()
        program.unlink()
        files.look(process.pid)
        (second,) = (each for each in files.kept if each.is_program)
        assert (second.path, second.is_deleted) == (os.fsencode(program), True)
        assert first not in [each.path for each in files.kept]
        assert files.not_taken == []
        process.kill()


def test_what_proc_tells_is_of_the_program_in_the_core(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    pause = Pause(Step.STARTING)
    patient = program(tmp_path, reach=reach_of([pause], tmp_path))
    words = text_of(["sh", "-c", 'read line; exec "$0" 1', build("threads")])
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
        assert target.stdin is not None
        assert target.stdout is not None
        file = tmp_path / "X.tar.zst"
        bundler = subprocess.Popen(text_of([patient, "bundle", target.pid, "-o", file]))
        try:
            pause.wait()
            target.stdin.write(b"\n")
            target.stdin.flush()
            assert b"pid" in target.stdout.readline()
        finally:
            pause.end()
            assert bundler.wait(60) == 0
            target.kill()
    top = unpack(file, tmp_path / "unpacked")
    assert (top / "proc/cmdline").read_bytes() == os.fsencode(build("threads")) + b"\0001\0"
    assert (top / "proc/comm").read_bytes() == b"threads\n"
    assert b"threads" in (top / "proc/maps").read_bytes()


MAPPER = """
import ctypes, json, mmap, os, sys
large = open(sys.argv[1], "r+b")
hidden = os.memfd_create("hidden")
os.ftruncate(hidden, 4096)
zero = open("/dev/zero", "r+b")
kept = [
    mmap.mmap(large.fileno(), 0),
    mmap.mmap(hidden, 4096),
    mmap.mmap(zero.fileno(), 4096, mmap.MAP_PRIVATE),
]
print(json.dumps({"pid": os.getpid()}), flush=True)
sys.stdin.read()
"""


def test_large_data_and_what_is_no_file_is_left_out(start: Start, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * ((1 << 20) + 1))
    target = start(sys.executable, "-c", MAPPER, large)
    file = tmp_path / "X"
    result = gcorefs("bundle", target.pid, "-o", file, "--file-limit", 1)
    why = "it is no ELF file and has 2 MiB, more than --file-limit"
    assert result.returncode == 0
    assert result.stderr.decode() == f"not in the bundle: {large}: {why}\n"
    top = unpack(file, tmp_path / "without")
    left_out = {each["path"]: each["why"] for each in manifest_of(top)["not_taken"]}
    assert left_out.pop(str(large)) == why
    assert left_out == {
        "/memfd:hidden (deleted)": "it is memory without a name, which the core has as far as its "
        "policy takes it",
        "/dev/zero": "it is no regular file",
    }
    assert not (top / f"root{large}").exists()
    assert not (top / "proc" / "environ").exists()
    top = bundle_of(target, tmp_path, "--file-limit", 2, "--environ")
    assert (top / f"root{large}").read_bytes() == large.read_bytes()
    assert (top / "proc" / "environ").read_bytes() == Path(
        f"/proc/{target.pid}/environ"
    ).read_bytes()
    assert (top / "proc" / "cmdline").read_bytes() == Path(
        f"/proc/{target.pid}/cmdline"
    ).read_bytes()
    assert str(large).encode() in (top / "proc" / "maps").read_bytes()


def test_without_capabilities_a_lost_library_is_told(start: Start, tmp_path: Path) -> None:
    # Not below tmp_path, which is root's alone.
    code = "import os, tempfile; print(tempfile.mkdtemp())"
    made = run(*AS_NOBODY, "/usr/bin/python3", "-c", code)
    folder = Path(made.stdout.decode().strip())
    try:
        library = build_library(folder / "library.so", "-Wl,--build-id=sha1")
        program = folder / "libuser"
        source = TARGETS / "libuser.c"
        subprocess.run(["gcc", "-O1", "-pthread", "-o", program, source], check=True)
        target = start(*AS_NOBODY, program, library)
        wait_until_asleep(target.pid)
        library.unlink()
        program.unlink()
        file = folder / "X"
        result = gcorefs("bundle", target.pid, "-o", "-")
        assert (result.returncode, result.stderr) == (0, b"")
        with file.open("wb") as output:
            said = subprocess.run(
                [*AS_NOBODY, sys.executable, "-m", "gcorefs", "bundle", str(target.pid), "-o", "-"],
                stdout=output, stderr=subprocess.PIPE, cwd="/", check=True, timeout=60,
            ).stderr.decode()  # fmt: skip
        why = (
            "without CAP_CHECKPOINT_RESTORE, as root has it, only its path leads to it, and "
            "nothing is there"
        )
        assert said == f"not in the bundle: {library}: {why}\n"
        top = unpack(file, tmp_path / "unpacked")
        manifest = manifest_of(top)
        assert manifest["not_taken"] == [{"path": str(library), "why": why}]
        assert manifest["program"] == f"root{program}"  # through /proc/PID/exe
    finally:
        shutil.rmtree(folder)


def test_a_full_disk_leaves_nothing_and_says_so(spawn: Spawn, tmpfs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64k", tmpfs], check=True)
    target = spawn("threads", 1)
    result = gcorefs("bundle", target.pid, "-o", tmpfs / "X.tar.zst")
    assert is_free(target.pid)
    assert_refused(result)
    assert result.stderr.decode().startswith(
        f"Error: {tmpfs / 'X.tar.zst'}: No space left on device; free some room"
    )
    assert list(tmpfs.iterdir()) == []


LARGE = """
import json, os, sys
kept = os.urandom(1 << 20) * 64
print(json.dumps({"pid": os.getpid()}), flush=True)
sys.stdin.read()
"""


def is_writing_to(pid: int, folder: Path) -> bool:
    """True if a process has a file in a folder open, with or without a name."""
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has closed that file
            if os.readlink(each).startswith(f"{folder}/"):
                return True
    return False


@pytest.mark.parametrize("hold", ["stop", "copy"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(
    start: Start, tmp_path: Path, number: signal.Signals, hold: str
) -> None:
    target = start(sys.executable, "-c", LARGE)
    words = ["bundle", str(target.pid), "-o", str(tmp_path / "X"), "--level", "19"]
    with subprocess.Popen([GCOREFS, *words, "--hold", hold], stderr=subprocess.PIPE) as command:
        eventually(lambda: is_writing_to(command.pid, tmp_path))
        command.send_signal(number)
        _, said = command.communicate(timeout=60)
    assert command.returncode == {signal.SIGINT: 1, signal.SIGTERM: 128 + signal.SIGTERM}[number]
    assert said == {signal.SIGINT: b"\nAborted!\n", signal.SIGTERM: b""}[number]
    assert is_free(target.pid)
    assert list(tmp_path.iterdir()) == []


def test_it_takes_one_process(spawn: Spawn, tmp_path: Path) -> None:
    first, second = spawn("threads", 1), spawn("threads", 1)
    result = gcorefs("bundle", first.pid, second.pid, cwd=tmp_path)
    assert_refused(result, "2 processes are meant, and the command takes one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hold", ["stop", "copy", "fork"])
def test_however_the_process_is_held(spawn: Spawn, tmp_path: Path, hold: str) -> None:
    target = spawn("threads", 2)
    wait_until_asleep(target.pid)
    top = bundle_of(target, tmp_path, "--hold", hold)
    assert stacks_in(in_bundle(top, BACKTRACE)).keys() == target.states().keys()
    assert target.ask("ping") == {"pong": 1}


def test_a_library_that_was_replaced_while_the_process_has_both(
    spawn: Spawn, tmp_path: Path
) -> None:
    library = build_library(tmp_path / "library.so", "-Wl,--build-id=sha1")
    first = build_id(library)
    target = start_user(spawn, library)
    library.unlink()
    build_library(library, "-Wl,--build-id=sha1", "-DOTHER", "-O0")
    top = bundle_of(target, tmp_path)
    (found,) = (each for each in manifest_of(top)["files"] if each["path"] == str(library))
    assert (found["build_id"], found["deleted"]) == (first, True)
    assert build_id(top / found["in_bundle"]) == first != build_id(library)


# A root with a debugger and its own libraries under a path of their own, and with the bundle.  The
# libraries of Python are no files of the process.
ELSEWHERE = """
set -eu
root=$1 bundle=$2 program=$3
shift 3
mount -t tmpfs elsewhere "$root"
mkdir -p "$root/debugger/bin" "$root/debugger/lib" "$root/bundle"
bind() { touch "$2"; mount --bind "$1" "$2"; }
mount --bind "$bundle" "$root/bundle"
bind "$program" "$root/debugger/bin/program"
ldd "$program" | sed -n 's/.*[[:space:]]\\(\\/[^ ]*\\) (0x.*/\\1/p' | while read -r library; do
    bind "$library" "$root/debugger/lib/$(basename "$library")"
done
for python in /usr/lib/python3*; do
    mkdir -p "$root$python"
    mount --bind "$python" "$root$python"
done
linker=/debugger/lib/$(basename "$(ls "$root"/debugger/lib/ld-linux*)")
set -- "$linker" --library-path /debugger/lib /debugger/bin/program "$@"
exec unshare --root="$root" --wd=/bundle "$@"
"""


@pytest.mark.parametrize(
    ("debugger", "words"),
    [
        ("gdb", ["-nx", "-batch", "-x", "open.gdb", "-ex", BACKTRACE]),
        ("lldb", ["--batch", "-s", "open.lldb", "-o", "bt all"]),
    ],
)
def test_a_machine_that_has_none_of_the_files(
    spawn: Spawn, tmp_path: Path, debugger: str, words: list[str]
) -> None:
    library = build_library(tmp_path / "library.so", "-Wl,--build-id=sha1")
    top = bundle_of(start_user(spawn, library), tmp_path)
    root = tmp_path / "elsewhere"
    root.mkdir()
    program = Path(str(shutil.which(debugger, path="/usr/bin"))).resolve()
    result = run("unshare", "--mount", "sh", "-c", ELSEWHERE, "sh", root, top, program, *words)
    said = result.stdout.decode(errors="replace")
    frames = re.findall(r"^[ *]*(?:frame )?#\d+.*$", said, re.MULTILINE)
    names = ("sleep_in_library", "in_library", "main")
    found = [name for line in frames for name in names if re.search(rf"\b{name}\b", line)]
    assert found == [*names], result

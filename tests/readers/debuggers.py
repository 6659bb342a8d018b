"""gdb, lldb and elfutils on a core, with their output divided by thread.

lldb's stderr is ignored: Debian's lldb 14 complains there about a Python module that its package
lacks.
"""

import re
import subprocess
from pathlib import Path

_GDB_THREAD = re.compile(r"^Thread \d+ \(.*?LWP (\d+)\).*:$", re.MULTILINE)
_LLDB_THREAD = re.compile(r"^thread #\d+: tid = (\d+),.*$", re.MULTILINE)
_EU_THREAD = re.compile(r"^TID (\d+):$", re.MULTILINE)


def run(*command: object) -> tuple[str, str]:
    """Standard output and error of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout, done.stderr


def gdb(*where_and_commands: object) -> str:
    """The arguments: a program and a core, or -p PID; then "--"; then one command each."""
    border = where_and_commands.index("--")
    where, commands = where_and_commands[:border], where_and_commands[border + 1 :]
    options = ["-nx", "-batch", "-iex", "set debuginfod enabled off"]
    for command in commands:
        options += ["-ex", str(command)]
    return run("gdb", *options, *where)[0]


def gdb_threads(*where_and_commands: object) -> dict[int, str]:
    """The output of `thread apply all` for each thread, for all commands together.

    Of the heading only the LWP counts: in a live process gdb numbers and names threads differently
    (a core has one name, in PRPSINFO), and lists them in its own order.
    """
    text = "\n".join(
        line
        for line in gdb(*where_and_commands).splitlines()
        if not line.startswith(("warning:", "[Inferior "))
    )
    return _by_thread(_GDB_THREAD, text)


_SHAPES = {"x": "v2_int64", "y": "v4_int64", "z": "v8_int64"}


def ask_bytes(name: str) -> tuple[str, str]:
    """Two gdb commands that print a register: st0, xmm0, ymm0, zmm0, k0 and similar ones, pkru."""
    shape = f".{_SHAPES[name[0]]}" if re.match("[xyz]mm", name) else ""
    what = f"info registers {name}" if name.startswith("st") else f"p/x ${name}{shape}"
    return f"echo {name}:\\n", what


def bytes_shown(text: str) -> dict[str, str]:
    """The output of these commands: the bytes of each register in hex, the lowest first; empty if
    gdb does not have them."""
    found = {}
    for name, value in re.findall(r"^(\w+):\n(.*)$", text, re.MULTILINE):
        if name.startswith("st"):
            size, words = 10, re.findall(r"\(raw 0x([0-9a-f]{20})\)", value)
        else:
            size = 4 if name == "pkru" else 8
            words = re.findall(r"0x([0-9a-f]+)", value.partition("=")[2])
        found[name] = b"".join(int(word, 16).to_bytes(size, "little") for word in words).hex()
    return found


def lldb(program: Path, core: Path, *commands: str) -> str:
    words = [word for command in commands for word in ("-o", command)]
    load = f"target create --core {core} {program}"
    # lldb opens the file several times: below a mount each open is a stop, unless it is open.
    with core.open("rb"):
        return run("lldb", "--batch", "--no-lldbinit", "-o", load, *words)[0]


def lldb_threads(program: Path, core: Path, threads: int, command: str) -> dict[int, str]:
    """The output of one command in each thread."""
    commands: list[str] = []
    for number in range(1, threads + 1):
        commands += [f"thread select {number}", f"thread info {number}", command]
    return _by_thread(_LLDB_THREAD, lldb(program, core, *commands))


def eu_stack(program: Path, core: Path) -> dict[int, str]:
    return _by_thread(_EU_THREAD, run("eu-stack", "--core", core, "-e", program)[0])


def _by_thread(heading: re.Pattern[str], text: str) -> dict[int, str]:
    _, *pieces = heading.split(text)
    found: dict[int, str] = {}
    for tid, body in zip(pieces[::2], pieces[1::2], strict=True):
        found[int(tid)] = found.get(int(tid), "") + body.strip("\n") + "\n"
    return found

"""pystack and py-spy on the core of a Python program as in Debian: without debug symbols.

They find the interpreter by the ELF headers in the core and the mapped files by NT_FILE, and read
the bytes that are not in the core (text, read-only data) from these files.  Only py-spy does not do
the latter: if a segment is not in the file, it takes the bytes that follow instead.  Names of types
are such data, so values (--locals) need private file mappings in the core: bit 2 of
coredump_filter, core(5).
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcorefs.kernel.proc import tasks
from tests.conftest import TARGETS, Target
from tests.readers.debuggers import run

# The usual name; the file is python3.11.
INTERPRETER = "/usr/bin/python3"
PYSTACK = Path(sys.executable).with_name("pystack")
PY_SPY = Path(sys.executable).with_name("py-spy")
THREADS = 4
FILE_MAPPINGS = 0x37

_PYSTACK_THREAD = re.compile(r"^Traceback for thread (\d+) .*:$", re.MULTILINE)


def pystack(core: Path, *options: str) -> dict[int, str]:
    """Its output for each thread; it takes the executable from the core."""
    out, _ = run(PYSTACK, "core", "--no-color", *options, core)
    _, *pieces = _PYSTACK_THREAD.split(out)
    return {int(tid): text for tid, text in zip(pieces[::2], pieces[1::2], strict=True)}


def python_functions(text: str) -> list[str]:
    """The functions of one thread, the innermost first."""
    return re.findall(r'^ +\(Python\) File ".*", line \d+, in (\S+)$', text, re.MULTILINE)[::-1]


def assert_stacks(found: dict[int, list[str]], target: Target) -> None:
    """Check the stack of every thread, the innermost function first."""
    assert set(found) == set(tasks.tids(target.pid))
    assert found[target.pid] == ["<module>"]
    for thread in target.truth["threads"]:
        functions = target.truth["functions"]
        assert found[thread["tid"]][: len(functions)] == functions


@pytest.fixture
def program(start: Callable[..., Target]) -> Target:
    return start(INTERPRETER, TARGETS / "frames.py", THREADS)


@pytest.mark.parametrize("native", [(), ("--native",), ("--native-all",)])
def test_pystack_shows_stacks_and_variables(
    program: Target, core_file: Callable[[int], Path], native: tuple[str, ...]
) -> None:
    found = pystack(core_file(program.pid), "--locals", *native)
    assert_stacks({tid: python_functions(text) for tid, text in found.items()}, program)
    for thread in program.truth["threads"]:
        text = found[thread["tid"]]
        for function, value in thread["canaries"].items():
            assert f" {function}_canary: {json.dumps(value)}\n" in text
        # The first native frame.  Some C libraries come without the symbol.
        first = r"\A\s*\(C\) .*, in (__clone3|\?\?\?) \(libc\.so\.6\)$"
        assert (re.search(first, text, re.MULTILINE) is not None) == bool(native)
    for function in ("_start", "Py_BytesMain", "read"):
        named = re.search(rf"\(C\) .*, in {function} \(", found[program.pid])
        assert (named is not None) == bool(native)


def py_spy(core: Path, *options: str) -> dict[int, dict[str, Any]]:
    out, _ = run(PY_SPY, "dump", "--core", core, "--json", *options)
    threads: list[dict[str, Any]] = json.loads(out)
    return {thread["os_thread_id"]: thread for thread in threads}


def test_py_spy_shows_stacks(program: Target, core_file: Callable[[int], Path]) -> None:
    found = py_spy(core_file(program.pid))
    assert_stacks(
        {tid: [frame["name"] for frame in thread["frames"]] for tid, thread in found.items()},
        program,
    )
    assert {tid: thread["thread_name"] for tid, thread in found.items()} == {
        program.pid: "MainThread",
        **{thread["tid"]: thread["name"] for thread in program.truth["threads"]},
    }


def test_py_spy_shows_variables_if_the_files_are_in_the_core(
    program: Target, core_file: Callable[[int], Path]
) -> None:
    Path(f"/proc/{program.pid}/coredump_filter").write_text(f"{FILE_MAPPINGS:#x}")
    found = py_spy(core_file(program.pid), "--locals")
    for thread in program.truth["threads"]:
        values = {
            local["name"]: local["repr"]
            for frame in found[thread["tid"]]["frames"]
            for local in frame["locals"]
        }
        for function, value in thread["canaries"].items():
            assert values[f"{function}_canary"] == json.dumps(value)

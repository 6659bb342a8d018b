"""drgn on the core of a C program: stacks, variables, memory."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import Target
from tests.readers.debuggers import run

DRGN = Path(sys.executable).with_name("drgn")
SCRIPT = Path(__file__).with_name("drgn_says.py")


def drgn(program: str, core: Path, *where: str) -> dict[str, Any]:
    words = ("--quiet", "--core", core, "--symbols", program)
    answer: dict[str, Any] = json.loads(run(DRGN, *words, SCRIPT, *where)[0])
    return answer


def test_drgn_shows_stacks_and_variables(
    spawn: Callable[..., Target], core_file: Callable[[int], Path]
) -> None:
    target = spawn("threads", 20)
    found = drgn(target.argv[0], core_file(target.pid))
    assert found["main"] == target.pid
    threads = {int(tid): frames for tid, frames in found["threads"].items()}
    assert set(threads) == {target.pid, *(thread["tid"] for thread in target.truth["threads"])}
    functions = target.truth["functions"]
    for thread in target.truth["threads"]:
        frames = [frame for frame in threads[thread["tid"]] if frame[0] in functions]
        assert [name for name, _ in frames] == functions
        variables = dict(frames)
        for function, canary in thread["canaries"].items():
            assert variables[function] == {f"{function}_canary": int(canary["value"], 16)}


def test_drgn_reads_memory(spawn: Callable[..., Target], core_file: Callable[[int], Path]) -> None:
    target = spawn("threads", 5)
    expected = {
        f"{canary['address']}:8": struct.pack("<Q", int(canary["value"], 16)).hex()
        for thread in target.truth["threads"]
        for canary in (*thread["canaries"].values(), thread["tls"], thread["counter"])
    }
    assert drgn(target.argv[0], core_file(target.pid), *expected)["memory"] == expected

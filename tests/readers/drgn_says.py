"""Runs in drgn on a core: prints one line of JSON.

For each thread its frames, with the function and the variables there whose names end with _canary;
and the bytes at given addresses (ADDRESS:LENGTH ...).
"""

import json
import sys

import drgn


def variables(frame: drgn.StackFrame) -> dict[str, int]:
    names = [name for name in frame.locals() if name.endswith("_canary")]
    return {name: frame[name].value_() for name in names}


def memory(program: drgn.Program, where: str) -> str:
    address, _, length = where.partition(":")
    found: bytes = program.read(int(address, 16), int(length))
    return found.hex()


program = drgn.get_default_prog()
answer = {
    "main": program.main_thread().tid,
    "threads": {
        thread.tid: [(frame.name, variables(frame)) for frame in thread.stack_trace()]
        for thread in program.threads()
    },
    "memory": {where: memory(program, where) for where in sys.argv[1:]},
}
print(json.dumps(answer))

"""For drgn to run on a core: one line of JSON of what it sees.

Of each thread its frames, each with its function and the variables there whose names end with
_canary; and the bytes at the addresses that are given (ADDRESS:LENGTH ...).
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

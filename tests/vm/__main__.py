"""python -m tests.vm [OPTION]... COMMAND: runs a command under another kernel.

Its standard output and error are those of the guest's console, its status is that of the command.
"""

import argparse
import sys
from pathlib import Path

from tests.vm import amd64, arm64
from tests.vm.kernels import NEWEST, kernel
from tests.vm.qemu import Guest, Settings

_TREE = Path(__file__).resolve().parents[2]
_MACHINES = {machine.debian: machine for machine in (amd64.MACHINE, arm64.MACHINE)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--kernel", default=NEWEST, help="the first numbers of its version")
    parser.add_argument("--arch", default="amd64", choices=_MACHINES)
    parser.add_argument("--cpu", default="", help="a processor of qemu")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", type=int, default=4096, help="MiB")
    parser.add_argument("--append", default="", help="more options of the kernel")
    parser.add_argument("--cgroups", default="v2", choices=("v2", "hybrid"))
    parser.add_argument("--limit", type=int, default=3600, help="seconds for the command")
    parser.add_argument("--cache", type=Path, default=_TREE / ".cache/vm")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    cache = given.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    machine = _MACHINES[given.arch]
    settings = Settings(
        given.cpu, given.cpus, given.memory, given.append, given.cgroups, given.limit
    )
    try:
        found = kernel(given.kernel, machine, cache)
    except LookupError as error:
        parser.error(str(error))
    guest = Guest(machine, found, settings, cache)
    return guest.run(given.command, _TREE)


if __name__ == "__main__":
    sys.exit(main())

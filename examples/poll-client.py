#!/usr/bin/env python3
"""Copy the core of a process without ever blocking on a process that is slow to stop.

open(2) with O_NONBLOCK returns at once and sets the stop in motion.  poll(2) then tells
when every thread is stopped and recorded; until then a read would fail with EAGAIN.
"""

import argparse
import os
import select
import sys

CHUNK = 1 << 20  # what the file system carries in one request


def wait_until_ready(fd: int, seconds: float) -> bool:
    """True once the core can be read, or can never be: then reading says why."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def copy(source: int, destination: int) -> None:
    while piece := os.read(source, CHUNK):
        view = memoryview(piece)
        while view:
            view = view[os.write(destination, view) :]


def main() -> str | None:
    """None, or what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pid", type=int)
    parser.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    parser.add_argument("-m", "--mount", metavar="DIR", default="/mnt/gcore")
    parser.add_argument("-t", "--timeout", metavar="SECONDS", type=float, default=10)
    arguments = parser.parse_args()

    path = os.path.join(arguments.mount, str(arguments.pid))
    try:
        # The process stands still until this file is closed.
        core = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        if not wait_until_ready(core, arguments.timeout):
            return f"{path}: not ready after {arguments.timeout:g} s"
        if arguments.output is None:
            copy(core, sys.stdout.fileno())
            return None
        # A core holds all the secrets of its process.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        destination = os.open(arguments.output, flags, 0o600)
        try:
            copy(core, destination)
        finally:
            os.close(destination)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    finally:
        os.close(core)
    return None


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Copy the core of a process without blocking, even if the process is slow to stop.

open(2) with O_NONBLOCK starts the stop and returns at once.  poll(2) reports when every
thread is stopped and recorded; before that, a read would fail with EAGAIN.
"""

import argparse
import os
import select
import sys

CHUNK = 1 << 20  # the largest request of the file system


def wait_until_ready(fd: int, seconds: float) -> bool:
    """True if the core can be read, or if it failed: then a read gives the error."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def copy(source: int, destination: int, name: str) -> None:
    """`name`: of the destination, for its errors."""
    while piece := os.read(source, CHUNK):
        view = memoryview(piece)
        while view:
            try:
                view = view[os.write(destination, view) :]
            except OSError as error:
                raise OSError(error.errno, error.strerror, name) from error


def copy_to_file(source: int, name: str) -> None:
    """The file is new, because a core holds all secrets of its process, and it is whole or gone."""
    destination = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        copy(source, destination, name)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(destination)


def main() -> str | None:
    """None, or an error message."""
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
            copy(core, sys.stdout.fileno(), "standard output")
        else:
            copy_to_file(core, arguments.output)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    finally:
        os.close(core)
    return None


if __name__ == "__main__":
    sys.exit(main())

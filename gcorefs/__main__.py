"""Where each program begins: `gcorefs` (also `python -m gcorefs`), `gcorefs-gcore`, and
`mount.gcorefs`."""

import gc
import io
import os
import signal
import sys
from collections.abc import Callable

_STANDARD = range(3)
_LEAST = 128 << 20
"""Bytes of address space and of data (setrlimit(2)) with which every command works.  With less, it
would depend on the machine which import or thread fails, and the interpreter itself loses errors.
"""
_NO_MEMORY = b"Error: gcorefs is out of memory\n"


def main() -> None:
    """Run the command line.

    SIGINT ends the program at once while it imports its parts, as it ends one that is written in
    C: an import would print a traceback.  From the command on it is an exception
    (gcorefs/cli/__init__.py).  Nor is there garbage to look for before the command.
    """
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _have_standard_descriptors()
    _run(_commands, status=1)


def gcore() -> None:
    """Run the program that takes the place of gdb's gcore."""
    _run(_gcore, status=1)


def mount_helper() -> None:
    """Run what mount(8) runs."""
    _run(_mount_helper, status=32)  # MNT_EX_FAIL (mount(8), EXIT STATUS)


def _commands() -> None:
    from gcorefs.cli import main as commands  # noqa: PLC0415

    commands()


def _gcore() -> None:
    from gcorefs.cli.gcore import main as program  # noqa: PLC0415

    program()


def _mount_helper() -> None:
    from gcorefs.cli.mount_gcorefs import main as program  # noqa: PLC0415

    program()


def _run(program: Callable[[], None], status: int) -> None:
    """Run a program.  If it lacks memory, that is one line and this status."""
    try:
        line = _missing()
        if not line:
            _lose_no_text()
            return program()
    # There was no memory to tell of it in the program.  The interpreter itself loses some errors,
    # and raises SystemError then.
    except (MemoryError, SystemError):
        line = b""  # first what all its frames have is given back
    try:  # noqa: SIM105 (that would need memory)
        os.write(2, line or _NO_MEMORY)
    except OSError:
        pass
    os._exit(status)  # the end of the interpreter needs memory too


def _lose_no_text() -> None:
    from gcorefs.kernel.patient import replace_text_streams  # noqa: PLC0415

    replace_text_streams()


def _missing() -> bytes:
    """What to tell if a limit of this process (setrlimit(2)) leaves too little memory."""
    try:
        import resource  # noqa: PLC0415
    except ImportError:  # it cannot be mapped
        return _NO_MEMORY
    for number, name, option in (
        (resource.RLIMIT_AS, "RLIMIT_AS", "-v"),
        (resource.RLIMIT_DATA, "RLIMIT_DATA", "-d"),
    ):
        limit = resource.getrlimit(number)[0]
        if 0 <= limit < _LEAST:
            text = f"Error: gcorefs needs {_LEAST >> 20} MiB of memory, and may have {limit >> 20}"
            return f"{text} ({name}, ulimit {option})\n".encode()
    return b""


def _have_standard_descriptors() -> None:
    """If the caller has closed one, put something in its place that can be neither read nor
    written, so that no file of ours gets its number.  Text for it is lost; a core for it is an
    error."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open("/", os.O_RDONLY | os.O_DIRECTORY)  # gets the lowest number that is free
            os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.BytesIO()))


if __name__ == "__main__":
    main()

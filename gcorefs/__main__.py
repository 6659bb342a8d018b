"""Where the program begins: `gcorefs`, and `python -m gcorefs`."""

import gc
import io
import os
import signal
import sys

_STANDARD = range(3)
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
    try:
        from gcorefs.cli import main as commands  # noqa: PLC0415

        commands()
    # There was no memory to tell of it in the command (RLIMIT_AS).  The interpreter itself loses
    # some errors, and raises SystemError then.
    except (MemoryError, SystemError):
        pass  # first what all its frames have is given back
    else:
        return
    try:  # noqa: SIM105 (that would need memory)
        os.write(2, _NO_MEMORY)
    except OSError:
        pass
    os._exit(1)  # the end of the interpreter needs memory too


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

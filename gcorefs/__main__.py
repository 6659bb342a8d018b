"""Where the program begins: `gcorefs`, and `python -m gcorefs`."""

import os
import signal
import sys

_STANDARD = range(3)


def main() -> None:
    """Run the command line.

    SIGINT ends the program at once while it imports its parts, as it ends one that is written in
    C: an import would print a traceback.  From the command on it is an exception
    (gcorefs/cli/__init__.py).
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _have_standard_descriptors()
    from gcorefs.cli import main as commands  # noqa: PLC0415

    commands()


def _have_standard_descriptors() -> None:
    """If the caller has closed one, put /dev/null in its place, so that no file of ours gets its
    number."""
    while (number := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) < len(_STANDARD):
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(_STANDARD[1], "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(_STANDARD[2], "w", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()

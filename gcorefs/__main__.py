"""Where the program begins: `gcorefs`, and `python -m gcorefs`."""

import signal


def main() -> None:
    """Run the command line.

    SIGINT ends the program at once while it imports its parts, as it ends one that is written in
    C: an import would print a traceback.  From the command on it is an exception
    (gcorefs/cli/__init__.py).
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gcorefs.cli import main as commands  # noqa: PLC0415

    commands()


if __name__ == "__main__":
    main()

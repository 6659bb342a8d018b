"""Runs many commands without importing each time: python -m tests.mounted.commands.

Each command runs in its own process, as after execve(2), forked from a process that has imported
everything.  A line of JSON, [FOLDER, FILE, WORDS], gives its working directory, the file for its
standard output and error, and its arguments, with surrogates for bytes that are not UTF-8
(PEP 383).  The answer is its exit status.
"""

import importlib
import json
import os
import sys

from gcorefs.cli import main


def run(folder: str, said: str, words: list[str]) -> None:
    os.chdir(folder)
    null = os.open(os.devnull, os.O_RDONLY)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for fd, of in ((0, null), (1, file), (2, file)):
        os.dup2(of, fd)
    os.closerange(3, 20)
    sys.argv = ["gcorefs", *words]
    main(prog_name="gcorefs")


def serve() -> None:
    for name in ("dump", "mount"):  # the imports that each command does only when it runs
        importlib.import_module(f"gcorefs.cli.{name}")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(*json.loads(line))  # ends by SystemExit
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()

"""python -m tests.fuzz [--runs N] [NAME ...]: N cases in total, divided among the harnesses.

Each harness runs in its own process, because libFuzzer ends the process in which it runs.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import atheris

# atheris prints the name of each module that it instruments to standard error.
with contextlib.redirect_stderr(io.StringIO()):
    from tests.fuzz.harnesses import HARNESSES, LONGEST

_FOUND = "found-"


def fuzz(name: str, runs: int, folder: str) -> None:
    """Does not return: libFuzzer ends the process, with status 0 if it found nothing."""
    # No len_control: texts of /proc are long from the beginning.
    limits = [f"-runs={runs}", f"-max_len={LONGEST}", "-len_control=0", "-timeout=10"]
    places = [f"-artifact_prefix={folder}/{_FOUND}", f"{folder}/corpus"]
    atheris.Setup([name, *limits, *places], HARNESSES[name])
    atheris.Fuzz()


def start(name: str, runs: int) -> bool:
    """True if nothing was found.  Prints a finding."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, seed in enumerate(HARNESSES[name].corpus()):
            (corpus / str(number)).write_bytes(seed)
        said = Path(folder, "said")
        child = os.fork()  # another start of Python would instrument the modules again
        if child == 0:
            try:
                with said.open("wb") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                fuzz(name, runs, folder)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        text = said.read_text(errors="replace")
        if status == 0:
            print(f"{name}: {text.splitlines()[-1]}", flush=True)
            return True
        print(f"{name}: found\n{text}", flush=True)
        for path in Path(folder).glob(f"{_FOUND}*"):
            print(f"{name}: {path.name}: {path.read_bytes()!r}", flush=True)
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--in", dest="folder", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    names = arguments.names or list(HARNESSES)
    if arguments.folder:
        fuzz(names[0], arguments.runs, arguments.folder)
    found = [name for name in names if not start(name, arguments.runs // len(names))]
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

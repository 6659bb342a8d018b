"""The stacks of one process, from a core and whatever readers are installed."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gcorefs.readers import delve, eu_stack, gdb, jhsdb, program, pystack
from gcorefs.readers.files import Files
from gcorefs.readers.frames import GO, JAVA, NATIVE, PYTHON, Frames, Thread
from gcorefs.readers.program import ReaderError

NATIVE_READERS = (eu_stack.NAME, gdb.NAME)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a reader reads."""

    pid: int
    core: str
    """The path of a core."""
    files: Files
    folder: str
    """A directory for the readers' own files; links to the process's files lie in it."""
    names: Mapping[int, str]
    """Of the threads."""
    root: str = ""
    """Where the paths of the process begin, if it is in another mount namespace."""


@dataclass(slots=True)
class Stacks:
    threads: list[Thread] = field(default_factory=list)
    goroutines: list[Thread] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """What readers of a language failed with."""


MANY_THREADS = 1000
"""For more of them eu-stack takes much longer than gdb: it reads all notes again for each."""


def native_reader(wanted: str, is_for_gdb: bool = False) -> str:
    """The reader of native frames that is asked; empty if it is not installed.

    `is_for_gdb`: gdb does better, if it is installed and no other reader is wanted.
    """
    found = [each for each in NATIVE_READERS if wanted in (each, "auto") and program.find(each)]
    if is_for_gdb and gdb.NAME in found:
        return gdb.NAME
    return found[0] if found else ""


def read(subject: Subject, native: str, languages: Sequence[str]) -> Stacks:
    """All stacks.  `native`: the reader of native frames.  ReaderError: it has failed."""
    frames = {NATIVE: _native(subject, native)}
    stacks = Stacks()
    names = dict(subject.names)
    for language in languages:
        with _noted(stacks.errors):
            if language == PYTHON:
                frames[PYTHON] = pystack.parse(_said(subject, pystack.NAME, pystack.command))
            elif language == JAVA:
                java = jhsdb.parse(_said(subject, jhsdb.NAME, jhsdb.command))
                frames[JAVA] = {tid: each.frames for tid, each in java.items() if each.frames}
                names |= {tid: each.name for tid, each in java.items()}
            elif language == GO:
                stacks.goroutines = _goroutines(subject)
    # What the programmer wrote comes first.
    order = [language for language in (PYTHON, JAVA, NATIVE) if language in frames]
    for tid in sorted({tid for each in frames.values() for tid in each}):
        of_thread = {each: frames[each][tid] for each in order if tid in frames[each]}
        stacks.threads.append(Thread(subject.pid, tid, names.get(tid, "?"), of_thread))
    return stacks


def _native(subject: Subject, name: str) -> dict[int, Frames]:
    path, files = program.find(name), subject.files
    folders = [subject.folder]
    if name == gdb.NAME:
        command = gdb.command(path, subject.core, files.executable, folders, subject.root)
        return gdb.parse(program.run(command, subject.folder))
    command = eu_stack.command(path, subject.core, files.executable, folders)
    # elfutils names the program by the path that it was given.
    given = os.path.basename(files.executable)
    own = os.path.basename(os.fsdecode(files.program))
    found = eu_stack.parse(program.run(command, subject.folder, eu_stack.ACCEPTED))
    return {tid: eu_stack.renamed(frames, given, own) for tid, frames in found.items()}


def _said(subject: Subject, name: str, command: Callable[[str, str, str], list[str]]) -> str:
    words = command(program.find(name), subject.core, subject.files.executable)
    return program.run(words, subject.folder)


def _goroutines(subject: Subject) -> list[Thread]:
    script = os.path.join(subject.folder, "commands")
    with open(script, "w", encoding="ascii") as file:
        file.write(delve.COMMANDS)
    command = delve.command(
        program.find(delve.NAME), subject.core, subject.files.executable, script
    )
    return delve.parse(subject.pid, program.run(command, subject.folder))


@contextlib.contextmanager
def _noted(errors: list[str]) -> Iterator[None]:
    """Native frames are good without those of a language."""
    try:
        yield
    except ReaderError as error:
        errors.append(str(error))

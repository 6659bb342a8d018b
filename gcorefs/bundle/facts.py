"""What /proc tells of a process, for the people who read its bundle."""

import os
import platform
import stat
from functools import partial

from gcorefs.kernel.proc import procfile
from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.errors import named

NAMES = ("cmdline", "comm", "status", "limits", "cgroup", "mountinfo", "smaps_rollup")
"""Files of /proc/PID."""
ENVIRON = "environ"
_OS_RELEASE = (("etc", "os-release"), ("usr", "lib", "os-release"))
_LONGEST = 64 << 10


def facts(tid: int, has_environ: bool) -> tuple[dict[str, bytes], dict[str, str]]:
    """The content of each file, and why others cannot be had.  None of them holds us up."""
    names = [*NAMES, *([ENVIRON] if has_environ else [])]
    answers = ask_each(
        [(f"/proc/{tid}/{name}", partial(_read, f"{tid}/{name}")) for name in names],
        otherwise=lambda number: "it does not answer",
    )
    found = {"kernel": _kernel()}
    errors = {}
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, bytes):
            found[name] = answer
        else:
            errors[name] = answer
    (release,) = ask_each([(f"/proc/{tid}/root", partial(_os_release, tid))], lambda number: b"")
    if release:
        found["os-release"] = release
    return found, errors


def _read(path: str, may_wait: bool) -> bytes | str:
    if not may_wait:
        return "it does not answer"
    try:
        return procfile.read(path)
    except OSError as error:
        return named(error)


def _kernel() -> bytes:
    it = platform.uname()
    return f"{it.system} {it.release} {it.version} {it.machine}\n".encode()


def _os_release(tid: int, may_wait: bool) -> bytes:
    """That of the root directory of the process; empty if there is none."""
    if may_wait:
        for words in _OS_RELEASE:
            try:
                return _read_below(f"/proc/{tid}/root", words)
            except OSError:
                continue
    return b""


def _read_below(root: str, words: tuple[str, ...]) -> bytes:
    """A file below a directory that belongs to others: no link there leads us to files that they
    cannot read."""
    at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for word in words[:-1]:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(word, flags, dir_fd=at)
            os.close(at)
            at = below
        if not stat.S_ISREG(os.stat(words[-1], dir_fd=at, follow_symlinks=False).st_mode):
            raise FileNotFoundError
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = os.open(words[-1], flags, dir_fd=at)
        try:
            return os.read(file, _LONGEST)
        finally:
            os.close(file)
    finally:
        os.close(at)

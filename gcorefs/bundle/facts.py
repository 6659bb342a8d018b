"""What /proc tells of a process, for the people who read its bundle."""

import contextlib
import os
import platform
from functools import partial

from gcorefs.kernel.proc import leases, mountinfo, procfile
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.bounded_questions import AT_WORK, ask_each
from gcorefs.process.errors import named
from gcorefs.process.quiet_open import NotOpenedError, open_regular

NAMES = ("cmdline", "comm", "status", "limits", "cgroup", "mountinfo", "smaps_rollup")
"""Files of /proc/PID."""
ENVIRON = "environ"
_OS_RELEASE = (("etc", "os-release"), ("usr", "lib", "os-release"))
_LONGEST = 64 << 10


def facts(tid: int, has_environ: bool) -> tuple[dict[str, bytes], dict[str, str]]:
    """The content of each file, and why others cannot be had.  None of them holds us up if it does
    not answer.  The process does not stand still."""
    names = [*NAMES, *([ENVIRON] if has_environ else [])]
    answers = ask_each(
        [(f"/proc/{tid}/{name}", partial(_read, f"{tid}/{name}")) for name in names],
        otherwise=lambda number: "it does not answer",
        at_work=AT_WORK,  # smaps_rollup walks all page tables
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
                return _read_below(tid, words)
            except (OSError, FormatError, NotOpenedError):
                continue
    return b""


def _read_below(tid: int, words: tuple[str, ...]) -> bytes:
    """A file below the root directory of a process, which belongs to others: no link and no mount
    there leads us to files that they cannot read.  (To mount a file over another one, nobody needs
    to be able to read it.)  OSError."""
    with contextlib.ExitStack() as stack:
        at = _opened(stack, f"/proc/{tid}/root", os.O_DIRECTORY)
        mount = mountinfo.mount_id(at)
        for word in words:
            at = _opened(stack, word, os.O_NOFOLLOW, at)
        if mountinfo.mount_id(at) != mount:
            raise FileNotFoundError
        # No lease of theirs is broken (fcntl(2)).
        leased = leases.leases(tid) or {}
        file = _closed(stack, open_regular(f"/proc/self/fd/{at}", leased, tid))
        return os.read(file, _LONGEST)


def _opened(stack: contextlib.ExitStack, path: str, flags: int, at: int | None = None) -> int:
    return _closed(stack, os.open(path, flags | os.O_PATH | os.O_CLOEXEC, dir_fd=at))


def _closed(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd

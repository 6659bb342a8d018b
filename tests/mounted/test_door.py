"""Every kind of opener tries every kind of target, and the kernel is asked first.

The reference is the answer of open(/proc/PID/mem) to the same process a moment before.  gcorefs may
never say yes if the kernel says no.  If gcorefs is stricter, the table gives the reason, as the
manual does.
"""

import errno
import functools
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.kernel.proc import current_call
from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import (
    end,
    eventually,
    has_stopped,
    is_free,
    opened,
    run,
    service_bounds,
    stops,
)
from tests.mounted.test_listing import switches

MANUAL = Path(__file__).parents[2] / "docs" / "permissions.md"
USER, OTHER = 4001, 4002

# linux/capability.h
DAC_OVERRIDE, DAC_READ_SEARCH, SETUID, NET_RAW, SYS_PTRACE = (1 << n for n in (1, 2, 7, 13, 19))
EVERY = (1 << 64) - 1


def uid(real: int, effective: int | None = None, saved: int | None = None) -> str:
    return f"uid={real},{effective or real},{saved or real}"


def gid(real: int, effective: int | None = None, saved: int | None = None) -> str:
    return f"gid={real},{effective or real},{saved or real}"


def caps(effective: int, permitted: int | None = None, inheritable: int = 0) -> str:
    return f"caps={effective:x},{permitted or effective:x},{inheritable:x}"


NO_GROUPS = "groups="
USERS = f"{NO_GROUPS} {gid(USER)} {uid(USER)}"
KEEPING = f"{NO_GROUPS} {gid(USER)} keep {uid(USER)}"  # it keeps the permitted capabilities
OTHERS = f"{NO_GROUPS} {gid(OTHER)} {uid(OTHER)}"
OWN_NAMESPACE = f"{USERS} dumpable=1 userns=0,{USER},1 exec={{plain}}"
IN_USERS_NAMESPACE = f"join={{user's namespace}} {gid(0)} {uid(0)} exec={{plain}}"
PTRACE_AMBIENT = f"{caps(SYS_PTRACE, SYS_PTRACE, SYS_PTRACE)} ambient=19"
RAW_AMBIENT = f"{caps(NET_RAW, NET_RAW, NET_RAW)} ambient=13"

# The programs that targets and openers execute: owner, group, mode.
PROGRAMS = {
    "plain": (0, 0, 0o755),
    "set_uid_root": (0, 0, 0o4755),
    "set_uid_user": (USER, USER, 0o4755),
    "set_gid": (0, OTHER, 0o2755),
    "file_capability": (0, 0, 0o755),
}

# Commands of tests/targets/identity.c.  A change of ids makes a process undumpable
# (kernel/cred.c, commit_creds); dumpable=1 undoes that, as execve(2) would.
TARGETS = {
    "root": "",
    "root, no capabilities": caps(0),
    "root, not dumpable": "dumpable=0",
    "user": f"{USERS} dumpable=1",
    "user, not dumpable": f"{USERS} dumpable=0",
    "user, more groups": f"groups=0,{OTHER} {gid(USER)} {uid(USER)} dumpable=1",
    "user, other uid": f"{NO_GROUPS} {gid(USER)} {uid(OTHER, USER, USER)} dumpable=1",
    "user, other euid": f"{NO_GROUPS} {gid(USER)} {uid(USER, OTHER, USER)} dumpable=1",
    "user, other suid": f"{NO_GROUPS} {gid(USER)} {uid(USER, USER, OTHER)} dumpable=1",
    "user, other fsuid": f"{KEEPING} {caps(SETUID)} fsuid={OTHER} {caps(0)} dumpable=1",
    "user, other uids": f"{NO_GROUPS} {gid(USER)} {uid(OTHER)} dumpable=1",
    "user, other gid": f"{NO_GROUPS} {gid(OTHER, USER, USER)} {uid(USER)} dumpable=1",
    "user, other egid": f"{NO_GROUPS} {gid(USER, OTHER, USER)} {uid(USER)} dumpable=1",
    "user, other sgid": f"{NO_GROUPS} {gid(USER, USER, OTHER)} {uid(USER)} dumpable=1",
    "user, PTRACE permitted": f"{KEEPING} {caps(0, SYS_PTRACE)} dumpable=1",
    "user, RAW ambient": f"{KEEPING} {RAW_AMBIENT} exec={{plain}}",
    "user, file capability": f"{USERS} exec={{file_capability}}",
    "user, set-uid root": f"{USERS} exec={{set_uid_root}}",
    "user, set-uid, dumpable": f"{USERS} exec={{set_uid_root}} dumpable=1",
    "other, set-uid user": f"{OTHERS} exec={{set_uid_user}} dumpable=1",
    "user, set-gid": f"{USERS} exec={{set_gid}} dumpable=1",
    "user's namespace": OWN_NAMESPACE,
    "user's, not dumpable": f"{IN_USERS_NAMESPACE} dumpable=0",
    "user's, nested": f"{IN_USERS_NAMESPACE} dumpable=1 userns=0,0,1 exec={{plain}}",
    "root's namespace": f"userns=0,100000,1000 {gid(0)} {uid(0)} exec={{plain}}",
    "root's, with user": f"userns=0,{USER},1 {gid(0)} {uid(0)} exec={{plain}}",
}

OPENERS = {
    "root": "",
    "root, no PTRACE": caps(EVERY & ~SYS_PTRACE),
    "root, PTRACE": caps(SYS_PTRACE),
    "root, PTRACE permitted": caps(EVERY & ~SYS_PTRACE, EVERY),
    "root, PTRACE and READ_SEARCH": caps(SYS_PTRACE | DAC_READ_SEARCH),
    "root, PTRACE and OVERRIDE": caps(SYS_PTRACE | DAC_OVERRIDE),
    "root, READ_SEARCH and OVERRIDE": caps(DAC_READ_SEARCH | DAC_OVERRIDE),
    "root, no capabilities": caps(0),
    "root, fsuid user": f"{NO_GROUPS} fsgid={USER} fsuid={USER}",
    "root, euid user": f"{NO_GROUPS} {gid(0, USER)} uid=0,{USER},0",
    "user": f"{USERS} exec={{plain}}",
    "user, no_new_privs": f"{USERS} no_new_privs exec={{plain}}",
    "user, other gid": f"{NO_GROUPS} {gid(OTHER)} {uid(USER)}",
    "user, more groups": f"groups=0,{OTHER} {gid(USER)} {uid(USER)}",
    "user, other uid": f"{NO_GROUPS} {gid(USER)} {uid(OTHER, USER)}",
    "user, other euid": f"{NO_GROUPS} {gid(USER)} {uid(USER, OTHER)}",
    "user, other fsuid": f"{KEEPING} {caps(SETUID)} fsuid={OTHER} {caps(0)}",
    "user, other euid, fsuid user": f"{NO_GROUPS} {gid(USER)} {uid(USER, OTHER)} fsuid={USER}",
    "user, other egid, fsgid user": f"{NO_GROUPS} {gid(USER, OTHER)} {uid(USER)} fsgid={USER}",
    "user, PTRACE permitted": f"{KEEPING} {caps(0, SYS_PTRACE)}",
    "user, PTRACE": f"{KEEPING} {caps(SYS_PTRACE)}",
    "user, PTRACE ambient": f"{KEEPING} {PTRACE_AMBIENT} exec={{plain}}",
    "user, PTRACE and READ_SEARCH": f"{KEEPING} {caps(SYS_PTRACE | DAC_READ_SEARCH)}",
    "user, PTRACE and OVERRIDE": f"{KEEPING} {caps(SYS_PTRACE | DAC_OVERRIDE)}",
    "user, READ_SEARCH and OVERRIDE": f"{KEEPING} {caps(DAC_READ_SEARCH | DAC_OVERRIDE)}",
    "user, RAW": f"{KEEPING} {caps(NET_RAW)}",
    "user, set-uid root": f"{USERS} exec={{set_uid_root}}",
    "user, securebits": f"securebits=5 {KEEPING} {caps(0)}",
    "other": OTHERS,
    "user in another pid namespace": f"pidns {USERS}",
    "in user's namespace": "join={user's namespace}",
    "root of user's namespace": f"join={{user's namespace}} {gid(0)} {uid(0)}",
    "root of root's namespace": f"join={{root's namespace}} {gid(0)} {uid(0)}",
    "user in their own": OWN_NAMESPACE,
}

# One column for each target, in their order: "+" both allow it, "." both refuse it, and a letter if
# gcorefs is stricter than the kernel.
STRICTER = {
    "n": ("it is in another user namespace", "in another user namespace"),
    "f": ("its effective ids do not match", "file-system ids differ"),
    "c": ("the kernel does not allow the opener", "a capability that gcorefs itself lacks"),
    "m": ("", "not dumpable"),
}
"""The texts in the log and in the manual.  For the mode there is none: the kernel never asks us."""

# fmt: off
TABLE = {
    "root":                           "++++++++++++++++++++++++++",
    "root, no PTRACE":                ".+......................++",
    "root, PTRACE":                   "+++.m...........m++.......",
    "root, PTRACE permitted":         ".+......................++",
    "root, PTRACE and READ_SEARCH":   "++++++++++++++++++++++++++",
    "root, PTRACE and OVERRIDE":      "++++++++++++++++++++++++++",
    "root, READ_SEARCH and OVERRIDE": ".+......................++",
    "root, no capabilities":          ".+........................",
    "root, fsuid user":               "...f.ff.ff.fffff...fffff.f",
    "root, euid user":                "...+.+...+...........+++..",
    "user":                           "...+.+...+...........+++..",
    "user, no_new_privs":             "...+.+...+...........+++..",
    "user, other gid":                ".....................+++..",
    "user, more groups":              "...+.+...+...........+++..",
    "user, other uid":                "...+.+...+...........+++..",
    "user, other euid":               "..........+...............",
    "user, other fsuid":              "..........f...............",
    "user, other euid, fsuid user":   "...f.f...f................",
    "user, other egid, fsgid user":   "...f.f...f...........fff..",
    "user, PTRACE permitted":         "...+.+...+...........+++..",
    "user, PTRACE":                   "...+.++.++.+++++...+++++.+",
    "user, PTRACE ambient":           "...+.++.++.+++++...+++++.+",
    "user, PTRACE and READ_SEARCH":   "++++++++++++++++++++++++++",
    "user, PTRACE and OVERRIDE":      "++++++++++++++++++++++++++",
    "user, READ_SEARCH and OVERRIDE": "...+.+...+...........+++..",
    "user, RAW":                      "...+.+...+.....+.....+++..",
    "user, set-uid root":             "++++++++++++++++++++++++++",
    "user, securebits":               "...+.+...+...........+++..",
    "other":                          "..........................",
    "user in another pid namespace":  "...+.+...+...........+++..",
    "in user's namespace":            ".....................nnn..",
    "root of user's namespace":       ".....................nnn..",
    "root of root's namespace":       "........................n.",
    "user in their own":              "..........................",
}
UNDER_THE_UNIT = {
    "root, PTRACE and OVERRIDE":      "+++c+ccccccccccc+++ccccccc",
    "user, PTRACE and OVERRIDE":      "ccc+c++c++c+++++ccc+++++c+",
    "user, RAW":                      "...+.+...+.....c.....+++..",
}
# fmt: on
"""The rows that differ if gcorefs has only the capabilities that its unit grants."""


@pytest.fixture
def programs(build: Callable[[str], Path], tmp_path: Path) -> dict[str, str]:
    paths = {}
    for name, (owner, group, mode) in PROGRAMS.items():
        path = tmp_path / name
        shutil.copy(build("identity"), path)
        os.chown(path, owner, group)
        os.chmod(path, mode)
        paths[name] = str(path)
    # linux/capability.h, struct vfs_cap_data: revision 2 and "effective", then permitted and
    # inheritable, lower halves first.
    attribute = struct.pack("<5I", 0x02000001, NET_RAW, 0, 0, 0)
    os.setxattr(paths["file_capability"], "security.capability", attribute)
    return paths


def is_asleep(pid: int) -> bool:
    return is_free(pid) and current_call.system_call(pid, pid) is not None


def symbol(kernel: int, ours: int, refusal: str) -> str:
    if ours not in (0, errno.EACCES) or kernel not in (0, errno.EACCES):
        return f"[{errno.errorcode[kernel or ours]}]"
    if kernel:
        return "." if ours else "!"
    if not ours:
        return "+"
    return next(letter for letter, (logged, _) in STRICTER.items() if logged in refusal)


@pytest.mark.parametrize("capabilities", ["all", "of the unit"])
def test_no_opener_gets_more_than_the_kernel_gives_it(
    unmounted: Mount,
    spawn: Callable[..., Target],
    programs: dict[str, str],
    capabilities: str,
) -> None:
    bounded = capabilities == "of the unit"
    command = ["setpriv", "--bounding-set", service_bounds()] if bounded else []
    options = ["-o", "allow_other", "--log-file", unmounted.log]
    result = run(*command, GCOREFS, "mount", *options, unmounted.path)
    assert (result.returncode, result.stderr) == (0, b"")
    unmounted.expect("the kernel does not allow the opener to trace it")
    unmounted.expect("the opener cannot be identified from here")
    targets: dict[str, Target] = {}

    def start(words: str) -> Target:
        pids = {name: target.pid for name, target in targets.items()}
        return spawn("identity", *words.format_map(programs | pids).split())

    for name, words in TARGETS.items():
        targets[name] = start(words)
    witness = start("")
    table = {}
    for name, words in OPENERS.items():
        opener = start(words)
        for target in targets.values():
            eventually(functools.partial(is_asleep, target.pid))
        before = [switches(target.pid) for target in targets.values()]
        begin = len(unmounted.log.read_text())
        answers = [opener.ask(f"try {t.pid} {unmounted / t.pid}") for t in targets.values()]
        opener.kill()
        for target in targets.values():
            eventually(functools.partial(is_asleep, target.pid))
        # Lines of the log come in order: this line shows that the log is up to date.
        told = stops(unmounted, witness.pid)
        with opened(unmounted / witness.pid) as fd:
            os.read(fd, 1)
        eventually(functools.partial(has_stopped, unmounted, witness.pid, told + 1))
        log = unmounted.log.read_text()[begin:].splitlines()
        table[name] = ""
        for target, switched, answer in zip(targets.values(), before, answers, strict=True):
            lines = [line for line in log if f"process {target.pid}: " in line]
            table[name] += symbol(answer["kernel"], answer["ours"], "".join(lines))
            stopped = len([line for line in lines if "opened by" in line])
            assert stopped == (answer["ours"] == 0), (name, lines)
            assert (switches(target.pid) != switched) == stopped, (name, lines)
    assert table == (TABLE | UNDER_THE_UNIT if bounded else TABLE)
    end(unmounted.server)


def test_the_manual_lists_where_we_are_stricter() -> None:
    manual = " ".join(MANUAL.read_text().split())
    assert [told for _, told in STRICTER.values() if told not in manual] == []

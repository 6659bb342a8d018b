"""Findings about who we are: capabilities, Yama, seccomp(2)."""

import os
from collections.abc import Iterator

from gcorefs.checkup.caller import NOT_KNOWN, Caller, Capability
from gcorefs.checkup.finding import Finding, note, ok, problem

_LOST = {
    Capability.SYS_PTRACE: "only your own processes can have a core, and of these none that is "
    "not dumpable or has more capabilities",
    Capability.SYS_ADMIN: "hold=precopy is hold=copy, and only fusermount3 can mount",
    Capability.DAC_READ_SEARCH: "files of /proc/PID of other users cannot be opened",
    Capability.BPF: "mappings come from smaps: a process with much memory stands still for longer",
    Capability.PERFMON: "BPF cannot be used, as without CAP_BPF",
    Capability.CHECKPOINT_RESTORE: "links in /proc/PID/map_files cannot be followed, so a core "
    "fills holes of shared memory",
    Capability.SETUID: "a mount with allow_other refuses users other than root",
    Capability.SETGID: "a mount refuses users in other groups than its own",
}
_INSTEAD = {
    # include/linux/capability.h: bpf_capable, perfmon_capable, checkpoint_restore_ns_capable.
    Capability.BPF: Capability.SYS_ADMIN,
    Capability.PERFMON: Capability.SYS_ADMIN,
    Capability.CHECKPOINT_RESTORE: Capability.SYS_ADMIN,
    Capability.DAC_READ_SEARCH: Capability.DAC_OVERRIDE,
}
"""Another capability that is as good."""

_OF_ROOTS_MOUNT = (Capability.SETUID, Capability.SETGID)
"""Nobody else's mount judges other users."""


def missing(caller: Caller) -> list[Capability]:
    """The capabilities that gcorefs would use, and the caller lacks."""
    return [
        each
        for each in _LOST
        if not caller.has(each)
        and not (each in _INSTEAD and caller.has(_INSTEAD[each]))
        and not (each in _OF_ROOTS_MOUNT and caller.uid)
    ]


def capabilities(caller: Caller) -> Iterator[Finding]:
    lacking = missing(caller)
    if not lacking:
        yield ok("capabilities", "all that gcorefs uses are there")
    step = "run it as root" if caller.uid else "give them to the container or the service"
    for each in lacking:
        yield note("capabilities", f"no CAP_{each.name}: {_LOST[each]}", step)


def yama(caller: Caller) -> Finding:
    """What Yama means for this caller (Documentation/admin-guide/LSM/Yama.rst)."""
    scope, is_privileged = caller.ptrace_scope, caller.has(Capability.SYS_PTRACE)
    allow = "run it as root, or: sysctl kernel.yama.ptrace_scope=0"
    if scope is None:
        return ok("Yama", "the kernel has no Yama, or does not use it")
    if scope == NOT_KNOWN:
        return note("Yama", "/proc does not show kernel.yama.ptrace_scope")
    named = f"ptrace_scope is {scope}"
    if scope == 0:
        return ok("Yama", f"{named}: it forbids nothing")
    if scope > 2:
        step = "boot again without it: no program can take it back"
        return problem("Yama", f"{named}: nobody may trace, not even root", step)
    if is_privileged:
        return ok("Yama", f"{named}, which does not concern a caller with CAP_SYS_PTRACE")
    who = "only a process that allows it (PR_SET_PTRACER)" if scope == 1 else "no process"
    return problem("Yama", f"{named}: {who} can have a core without CAP_SYS_PTRACE", allow)


def tracing(caller: Caller) -> Finding:
    """Whether ptrace(2) works at all."""
    if not caller.seize_errno:
        return ok("ptrace", "ptrace(2) works on a child of ours")
    error = os.strerror(caller.seize_errno)
    if caller.has_filter:
        step = "allow ptrace in the seccomp filter (docker, podman: --cap-add SYS_PTRACE)"
    else:
        step = "see Yama and the security modules; --policy @glance stops nobody"
    return problem("ptrace", f"ptrace(2) is denied even on a child of ours: {error}", step)


def seccomp(caller: Caller) -> Finding:
    if caller.is_readv_denied:
        return note(
            "seccomp",
            "process_vm_readv(2) is denied: memory is read from /proc/PID/mem, and not the pages "
            "for which such a read could wait",
            "allow process_vm_readv in the seccomp filter",
        )
    if caller.has_filter:
        return ok("seccomp", "a filter judges our calls, and allows process_vm_readv(2)")
    return ok("seccomp", "no filter judges our calls")


def namespaces(caller: Caller) -> Iterator[Finding]:
    if caller.is_own_pid_namespace:
        yield note(
            "container",
            "we are in a pid namespace of our own: processes outside of it have no pid here",
            "for those of the host: docker run --pid=host, hostPID: true, or nsenter -t PID -p -m",
        )
    if caller.is_own_user_namespace:
        yield note(
            "container",
            "we are in a user namespace of our own: our capabilities count only in it",
            "for all others, run it as root of the host",
        )
    if not caller.is_own_pid_namespace and not caller.is_own_user_namespace:
        yield ok("container", "we see the processes of the host under their own pids")


def privileges(caller: Caller) -> list[Finding]:
    return [
        *capabilities(caller),
        tracing(caller),
        yama(caller),
        seccomp(caller),
        *namespaces(caller),
    ]

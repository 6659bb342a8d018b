"""One process: whether it can have a core, what each way to take one costs, and which to take.
Nothing here stops it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gcorefs.checkup.caller import Caller, Capability
from gcorefs.checkup.finding import Finding, note, ok, problem
from gcorefs.checkup.machine import Machine
from gcorefs.checkup.privileges import tracing
from gcorefs.errors import Why
from gcorefs.forecast import forecast, stop_seconds
from gcorefs.kernel.proc import task_stat, task_status
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.look import estimate, look
from gcorefs.policy import Policy
from gcorefs.process.cgroups import is_frozen
from gcorefs.process.errors import ProcessError, Reason, told

POLICIES = ("hold=stop", "hold=copy", "hold=precopy", "hold=fork", "@stacks")
_SHORT = 0.1
"""Seconds for which a process may stand still, and hardly anybody sees it."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a core costs with one policy."""

    policy: str
    size: int
    """Bytes; probably not more."""
    stop_seconds: float
    instead: str = ""
    """What it is instead, and why; empty if it is what it says."""


@dataclass(frozen=True, slots=True)
class Advice:
    policy: str
    why: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    pid: int
    name: bytes
    threads: int
    findings: Sequence[Finding]
    costs: Sequence[Cost] = ()
    """Empty if there will be no core."""
    advice: Advice | None = None


@dataclass(frozen=True, slots=True)
class Rights:
    """By what the kernel decides who may trace a process (ptrace(2)); uids and capabilities."""

    uids: frozenset[int]
    permitted: int
    is_dumpable: bool


def parse_rights(status: Mapping[str, bytes], owner: int) -> Rights:
    """`owner`: the uid that owns files of /proc/PID: root, if it is not dumpable."""
    uids = frozenset(map(int, status["Uid"].split()))
    return Rights(uids, int(status["CapPrm"], 16), owner in uids)


def why_denied(rights: Rights, caller: Caller) -> str:
    """Why the kernel does not let the caller trace the process, as far as /proc tells."""
    if caller.has(Capability.SYS_PTRACE):
        return "a security module, or another user namespace, protects it"
    if rights.uids != {caller.uid}:
        owners = ", ".join(map(str, sorted(rights.uids)))
        return f"it belongs to uid {owners}, and you are uid {caller.uid}"
    if not rights.is_dumpable:
        return "it is not dumpable: its program is set-user-ID or unreadable, or asked for that"
    if rights.permitted & ~caller.capabilities:
        return "it has capabilities that you lack"
    if caller.ptrace_scope:
        return f"Yama (ptrace_scope {caller.ptrace_scope}) allows it only to an ancestor of it"
    return "a security module, or another user namespace, protects it"


def refused(error: ProcessError, more: str = "", step: str = "") -> Finding:
    """Why there will be no core.  `more`: who traces it, or why it is denied; `step`: what helps,
    if it is known better than by the reason."""
    text = str(error).partition(": ")[2]
    fact = f"{text}: {more}" if more else text
    return problem("core", fact, step or _STEPS.get(error.reason, error.step))


_STEPS: Mapping[Why, str] = {
    Reason.TRACED: "end that tracer; --policy @glance needs no stop",
    Reason.DENIED: "run it as root of the host, with CAP_SYS_PTRACE",
    Reason.NOT_SHOWN: "run it as root of the host, with CAP_SYS_PTRACE",
}
"""Of these the finding says itself what the step of the reason would have looked up."""


def costs(seen: Iterable[Cost], machine: Machine) -> list[Cost]:
    """The same, as they will be on this machine.  The first is that of hold=stop."""
    found = {each.policy: each for each in seen}
    stop, copy = found["hold=stop"], found["hold=copy"]
    room, size = machine.headroom.for_copies, copy.size
    if size > room:
        why = f"as hold=stop: a copy may take only {room >> 20} MiB"
        copy = found["hold=copy"] = Cost("hold=copy", size, stop.stop_seconds, why)
    for name, why_not in (
        ("hold=precopy", machine.host.why_not_ahead),
        ("hold=fork", "" if machine.host.can_fork else "gcorefs makes no calls on this machine"),
    ):
        if why_not:
            found[name] = Cost(name, size, copy.stop_seconds, f"as hold=copy: {why_not}")
    return [*found.values()]


def advice(found: Iterable[Cost]) -> Advice:
    """Which policy to take.  Never hold=fork, which changes the process (docs/stopping.md)."""
    by_name = {each.policy: each for each in found}
    if by_name["hold=stop"].stop_seconds <= _SHORT:
        return Advice("hold=stop", "it is the simplest, and the process hardly stands still")
    if not by_name["hold=copy"].instead and by_name["hold=copy"].stop_seconds <= _SHORT:
        return Advice("hold=copy", "the process goes on as soon as its memory is copied")
    if not by_name["hold=precopy"].instead:
        where = ""
        if by_name["hold=copy"].instead:
            where = ", and -o FILE keeps the copy on a disk, because memory is short"
        return Advice("hold=precopy", f"most is copied while the process runs{where}")
    if not by_name["hold=copy"].instead:
        return Advice("hold=copy", "the process goes on as soon as its memory is copied")
    return Advice("@stacks", "backtraces need little, and the whole core a long stop")


def diagnose(process: Process, machine: Machine) -> Diagnosis:
    """ProcessError, and OSError of /proc: nothing is known of it."""
    found = forecast(process, Policy())
    if found is None:
        return _ended(process.pid)
    if found.refusal is None and machine.caller.seize_errno:
        denied = replace(tracing(machine.caller), topic="core")
        return _without(found.pid, found.name, found.threads, denied)
    if found.refusal is not None:
        return _without(found.pid, found.name, found.threads, _refusal(found.refusal, machine))
    findings = [ok("core", "nothing is known that forbids one")]
    if is_frozen(found.pid):
        findings.append(note("core", "its control group is frozen: it goes on when that is thawed"))
    with told(found.pid, Reason.GONE):
        seen = look(found.pid)
    policies = [(name, Policy.of(name)) for name in POLICIES]
    sizes = {policy.memory: estimate(seen, policy) for _, policy in policies}
    here = costs(
        [
            Cost(name, sizes[policy.memory], stop_seconds(seen, sizes[policy.memory], policy))
            for name, policy in policies
        ],
        machine,
    )
    return Diagnosis(found.pid, found.name, found.threads, findings, here, advice(here))


def _without(pid: int, name: bytes, threads: int, finding: Finding) -> Diagnosis:
    return Diagnosis(pid, name, threads, [finding])


def _ended(pid: int) -> Diagnosis:
    """Of a process that has no living thread."""
    try:
        stat = task_stat.stat(pid)
        parent = _name(stat.ppid)
    except OSError:
        return _without(pid, b"", 0, problem("core", "the process has ended"))
    named = f"process {stat.ppid} ({parent})"
    fact = f"it is a zombie: it has ended, has no memory, and {named} has not waited for it"
    return _without(pid, stat.comm, 0, problem("core", fact, "look at that parent instead"))


def _refusal(error: ProcessError, machine: Machine) -> Finding:
    if error.reason in (Reason.TRACED, Reason.HELD):
        return refused(error, _name(int(error.detail.removeprefix("TracerPid "))))
    if error.reason in (Reason.DENIED, Reason.NOT_SHOWN):
        return refused(error, why_denied(_rights(error.pid), machine.caller))
    return refused(error)


def _name(pid: int) -> str:
    try:
        return task_stat.stat(pid).comm.decode(errors="replace")
    except OSError:
        return "not shown"


def _rights(pid: int) -> Rights:
    try:
        owner, _ = task_status.owner_of(f"{pid}/mem")
        return parse_rights(task_status.status(pid), owner)
    except OSError:  # it has ended, or is hidden
        return Rights(frozenset({os.geteuid()}), 0, True)

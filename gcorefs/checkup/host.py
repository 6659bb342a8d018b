"""The kernel's features, BPF, and security modules (docs/kernels.md)."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gcorefs.arch import NAME, machine_of
from gcorefs.checkup.finding import Finding, note, ok
from gcorefs.hold.precopied import why_not_ahead
from gcorefs.kernel.proc import procfile
from gcorefs.process.kernel_features import kernel_features
from gcorefs.sources.bpf.loading import Choice, load

_LOST = {
    "PAGEMAP_SCAN": "a process that reserves much memory stands still for longer",
    "guards in PAGEMAP_SCAN": "guard pages are found only when they are read",
    "guards in VmFlags": "every mapping is asked for guard pages",
    "MADV_POPULATE_WRITE": "the memory of a copy is allocated while the process stands still",
}
"""Without these features something is lost.  Without the others no process can have what they would
show, or another finding tells of them."""

_BPF_STEPS = {
    "no CAP_BPF": "run it as root of the host",
    "was not built": "make builds it in a checkout, with clang",
    "libbpf": "apt-get install libbpf1",
}
"""What helps, by words in the reason (sources/bpf/loading.py)."""

_GUARDS = "MADV_GUARD_INSTALL"


@dataclass(frozen=True, slots=True)
class Host:
    release: str
    machine: str
    features: Mapping[str, bool]
    """By the names of kernel_features; empty if /proc does not show us what they are tried on."""
    why_not_ahead: str
    """Why hold=precopy is hold=copy; empty if it is not."""
    can_fork: bool
    """gcorefs can make calls in a process of this machine."""
    bpf: Choice


@dataclass(frozen=True, slots=True)
class Security:
    """Empty, or None: not there, or not shown."""

    modules: str = ""
    """Their names, with commas between them."""
    label: str = ""
    """Ours: "docker-default (enforce)", "unconfined"."""
    is_selinux_enforcing: bool = False
    is_ptrace_denied: bool = False
    """The boolean deny_ptrace of SELinux."""
    lockdown: str = ""
    """none, integrity or confidentiality; kernel_lockdown(7)."""


def parse_lockdown(text: str) -> str:
    """The word in brackets of "none [integrity] confidentiality"."""
    return text.partition("[")[2].partition("]")[0]


def ask_host() -> Host:
    """The caller has one thread."""
    name = os.uname()
    machine = machine_of(is_32_bit=False)
    can_fork = machine is not None and machine.injected is not None
    features: Mapping[str, bool] = {}
    with contextlib.suppress(OSError):
        features = kernel_features()
    return Host(name.release, NAME, features, why_not_ahead(), can_fork, load())


def ask_security() -> Security:
    label = ""
    with contextlib.suppress(OSError):
        label = procfile.read("self/attr/current").rstrip(b"\0\n").decode(errors="replace")
    return Security(
        modules=_text("/sys/kernel/security/lsm"),
        label=label,
        is_selinux_enforcing=_text("/sys/fs/selinux/enforce") == "1",
        is_ptrace_denied=_text("/sys/fs/selinux/booleans/deny_ptrace")[:1] == "1",
        lockdown=parse_lockdown(_text("/sys/kernel/security/lockdown")),
    )


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def host(facts: Host) -> list[Finding]:
    return [*_kernel(facts), _ahead(facts), _fork(facts), *_bpf(facts.bpf)]


def _kernel(facts: Host) -> Iterator[Finding]:
    named = f"Linux {facts.release} on {facts.machine}"
    if not facts.features:
        yield note("kernel", f"{named}: /proc does not show us what its features are tried on")
        return
    # On a kernel without guards nothing is lost by not seeing them.
    lacking = [
        name
        for name in _LOST
        if not facts.features.get(name, False)
        and (not name.startswith("guards") or facts.features.get(_GUARDS, False))
    ]
    if not lacking:
        yield ok("kernel", f"{named} has every feature that gcorefs uses")
    for name in lacking:
        yield note("kernel", f"{named} has no {name}: {_LOST[name]}")


def _ahead(facts: Host) -> Finding:
    if facts.why_not_ahead:
        step = "run it as root" if "CAP_SYS_ADMIN" in facts.why_not_ahead else "try hold=fork"
        return note("hold=precopy", f"it is hold=copy here: {facts.why_not_ahead}", step)
    return ok("hold=precopy", "memory can be copied while the process runs")


def _fork(facts: Host) -> Finding:
    if facts.can_fork:
        return ok("hold=fork", "a process can be made to fork")
    return note("hold=fork", f"it is hold=copy here: gcorefs makes no calls on {facts.machine}")


def _bpf(choice: Choice) -> Iterator[Finding]:
    lost = {
        "mappings come from smaps, which takes longer": choice.why_not,
        "registers of threads that sleep are not seen without a stop": choice.why_no_registers,
    }
    for why in dict.fromkeys(filter(None, lost.values())):
        facts = ", and ".join(fact for fact, its_why in lost.items() if its_why == why)
        yield note("BPF", f"{facts}: {why}", _bpf_step(why))
    if not any(lost.values()):
        yield ok("BPF", "mappings, and registers of threads that sleep, come from BPF")


def _bpf_step(why: str) -> str:
    return next((step for words, step in _BPF_STEPS.items() if words in why), "")


def security(facts: Security) -> list[Finding]:
    return [_selinux(facts), _apparmor(facts), _lockdown(facts)]


def _selinux(facts: Security) -> Finding:
    if facts.is_ptrace_denied:
        return note("SELinux", "deny_ptrace is on", "setsebool deny_ptrace off")
    if facts.is_selinux_enforcing:
        return note(
            "SELinux",
            f"it is enforcing, and may refuse a process to {facts.label or 'us'}",
            "ausearch -m avc shows what it has refused",
        )
    return ok("SELinux", "it is not enforcing, or not shown")


def _apparmor(facts: Security) -> Finding:
    name, _, mode = facts.label.partition(" (")
    if mode == "enforce)":
        return note(
            "AppArmor",
            f"the profile {name} confines us: of processes outside of it none can have a core",
            "docker, podman: --security-opt apparmor=unconfined",
        )
    if "apparmor" in facts.modules.split(","):
        return ok("AppArmor", "it does not confine us")
    return ok("AppArmor", "it is not used, or not shown")


def _lockdown(facts: Security) -> Finding:
    if facts.lockdown == "confidentiality":
        lost = "BPF may not read the kernel's memory"
        return note("lockdown", f"it is {facts.lockdown}: {lost}", "boot with lockdown=integrity")
    return ok("lockdown", f"it is {facts.lockdown or 'not used, or not shown'}")

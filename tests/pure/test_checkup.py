"""What `gcorefs check` finds, from given facts."""

import errno
from dataclasses import replace

import pytest

from gcorefs.checkup.caller import NOT_KNOWN, Caller, Capability, parse_ptrace_scope
from gcorefs.checkup.finding import Finding, Mark, note, ok, problem
from gcorefs.checkup.fuse import Fuse, allows_other, fuse
from gcorefs.checkup.headroom import Headroom, headroom
from gcorefs.checkup.host import Host, Security, host, parse_lockdown, security
from gcorefs.checkup.machine import Machine
from gcorefs.checkup.privileges import missing, privileges, seccomp, tracing, yama
from gcorefs.checkup.proc_view import ProcView, is_subset, proc_view
from gcorefs.checkup.target import (
    POLICIES,
    Cost,
    Rights,
    advice,
    costs,
    parse_rights,
    refused,
    why_denied,
)
from gcorefs.process.cgroups import Limit
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.hidepid import ProcOptions
from gcorefs.process.kernel_features import kernel_features
from gcorefs.sources.bpf.loading import Choice

EVERY = (1 << 41) - 1
ROOT = Caller(
    uid=0, capabilities=EVERY, ptrace_scope=0, has_filter=False, seize_errno=0,
    is_readv_denied=False, is_own_pid_namespace=False, is_own_user_namespace=False,
)  # fmt: skip
USER = replace(ROOT, uid=1000, capabilities=0)
FUSE = Fuse(why_not_open=None, is_there=True, has_fusermount=True, allows_other=True)
FEATURES = dict.fromkeys(kernel_features(), True)
BPF = Choice(why_not="", why_no_registers="")
HOST = Host("6.18", "x86_64", FEATURES, "", True, BPF)
MIB = 1 << 20
ROOM = Headroom(available=900 * MIB, reserve=100 * MIB, copy_limit=400 * MIB, swap=0)
MACHINE = Machine(ROOT, FUSE, ProcView(ProcOptions()), HOST, Security(), ROOM)


def without(*names: str) -> Host:
    return replace(HOST, features=FEATURES | dict.fromkeys(names, False))


def test_on_a_good_machine_all_is_well() -> None:
    found = MACHINE.findings()
    assert {each.mark for each in found} == {Mark.OK}
    assert not [each.step for each in found if each.step]
    assert ok("kernel", "Linux 6.18 on x86_64 has every feature that gcorefs uses") in found


@pytest.mark.parametrize(
    ("facts", "caller", "finding"),
    [
        (
            replace(FUSE, is_there=False, why_not_open="No such file or directory"),
            ROOT,
            note(
                "FUSE",
                "there is no /dev/fuse: nothing can be mounted; gcorefs dump works without",
                "modprobe fuse (docker, podman: --device /dev/fuse)",
            ),
        ),
        (
            replace(FUSE, why_not_open="Permission denied"),
            USER,
            note(
                "FUSE",
                "/dev/fuse cannot be opened: Permission denied; gcorefs dump works without",
                "chmod 666 /dev/fuse (docker, podman: --device /dev/fuse)",
            ),
        ),
        (
            replace(FUSE, has_fusermount=False),
            USER,
            note(
                "fusermount3", "it is not installed: only root can mount", "apt-get install fuse3"
            ),
        ),
        (
            replace(FUSE, has_fusermount=False),
            ROOT,
            note(
                "fusermount3",
                "it is not installed: gcorefs umount does not work",
                "apt-get install fuse3",
            ),
        ),
        (
            replace(FUSE, allows_other=False),
            USER,
            note(
                "allow_other",
                "/etc/fuse.conf does not let users give it: nobody else can read your mount",
                "echo user_allow_other >> /etc/fuse.conf, as root",
            ),
        ),
    ],
)
def test_what_keeps_a_mount_away_does_not_keep_a_dump_away(
    facts: Fuse, caller: Caller, finding: Finding
) -> None:
    assert [each for each in fuse(facts, caller) if each.mark is not Mark.OK] == [finding]


def test_root_needs_no_word_in_fuse_conf() -> None:
    assert fuse(replace(FUSE, allows_other=False), ROOT) == fuse(FUSE, ROOT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_allow_other\n", True),
        ("# x\n\n  user_allow_other  ", True),
        ("#user_allow_other\n", False),
        ("mount_max = 5\n", False),
        ("", False),
    ],
)
def test_fuse_conf(text: str, expected: bool) -> None:
    assert allows_other(text) is expected


def test_a_capability_counts_by_itself_or_by_one_that_includes_it() -> None:
    bit = {each: 1 << each for each in Capability}
    lacking = ["SYS_PTRACE", "SYS_ADMIN", "DAC_READ_SEARCH", "BPF", "PERFMON", "CHECKPOINT_RESTORE"]
    assert [each.name for each in missing(USER)] == lacking
    of_root = missing(replace(ROOT, capabilities=0))
    assert [each.name for each in of_root] == [*lacking, "SETUID", "SETGID"]
    admin = replace(USER, capabilities=bit[Capability.SYS_ADMIN] | bit[Capability.DAC_OVERRIDE])
    assert missing(admin) == [Capability.SYS_PTRACE]
    for each in (Capability.BPF, Capability.PERFMON, Capability.SYS_PTRACE):
        assert each not in missing(replace(USER, capabilities=bit[each]))
    steps = {each.step for each in privileges(USER) if each.topic == "capabilities"}
    assert steps == {"run it as root"}


NO_CORE = "can have a core without CAP_SYS_PTRACE"
ALLOW = "run it as root, or: sysctl kernel.yama.ptrace_scope=0"


@pytest.mark.parametrize(
    ("scope", "caller", "finding"),
    [
        (None, USER, ok("Yama", "the kernel has no Yama, or does not use it")),
        (NOT_KNOWN, USER, note("Yama", "/proc does not show kernel.yama.ptrace_scope")),
        (0, USER, ok("Yama", "ptrace_scope is 0: it forbids nothing")),
        (
            1,
            USER,
            problem(
                "Yama",
                f"ptrace_scope is 1: only a process that allows it (PR_SET_PTRACER) {NO_CORE}",
                ALLOW,
            ),
        ),
        (2, USER, problem("Yama", f"ptrace_scope is 2: no process {NO_CORE}", ALLOW)),
        (
            2,
            ROOT,
            ok("Yama", "ptrace_scope is 2, which does not concern a caller with CAP_SYS_PTRACE"),
        ),
        (
            3,
            ROOT,
            problem(
                "Yama",
                "ptrace_scope is 3: nobody may trace, not even root",
                "boot again without it: no program can take it back",
            ),
        ),
    ],
)
def test_yama_by_scope_and_caller(scope: int | None, caller: Caller, finding: Finding) -> None:
    assert yama(replace(caller, ptrace_scope=scope)) == finding


def test_the_scope_is_a_number() -> None:
    assert [parse_ptrace_scope(text) for text in (b"1\n", b"", b"x\n")] == [1, NOT_KNOWN, NOT_KNOWN]


def test_ptrace_is_tried_and_a_filter_is_named() -> None:
    denied = replace(ROOT, seize_errno=errno.EPERM)
    fact = "ptrace(2) is denied even on a child of ours: Operation not permitted"
    no_filter = "see Yama and the security modules; --policy @glance stops nobody"
    a_filter = "allow ptrace in the seccomp filter (docker, podman: --cap-add SYS_PTRACE)"
    assert tracing(denied) == problem("ptrace", fact, no_filter)
    assert tracing(replace(denied, has_filter=True)) == problem("ptrace", fact, a_filter)
    assert tracing(replace(ROOT, has_filter=True)) == ok(
        "ptrace", "ptrace(2) works on a child of ours"
    )


def test_a_filter_that_denies_reads_is_a_note() -> None:
    assert seccomp(replace(ROOT, has_filter=True)).mark is Mark.OK
    assert seccomp(replace(ROOT, has_filter=True, is_readv_denied=True)) == note(
        "seccomp",
        "process_vm_readv(2) is denied: memory is read from /proc/PID/mem, and not the pages for "
        "which such a read could wait",
        "allow process_vm_readv in the seccomp filter",
    )


def test_namespaces_of_our_own_are_told() -> None:
    inside = replace(ROOT, is_own_pid_namespace=True, is_own_user_namespace=True)
    facts = [each.fact for each in privileges(inside) if each.topic == "container"]
    assert facts == [
        "we are in a pid namespace of our own: processes outside of it have no pid here",
        "we are in a user namespace of our own: our capabilities count only in it",
    ]


def test_a_feature_that_the_kernel_lacks_and_what_is_lost() -> None:
    found = host(without("PAGEMAP_SCAN", "MADV_POPULATE_WRITE"))
    assert [each for each in found if each.mark is not Mark.OK] == [
        note(
            "kernel",
            "Linux 6.18 on x86_64 has no PAGEMAP_SCAN: a process that reserves much memory stands "
            "still for longer",
        ),
        note(
            "kernel",
            "Linux 6.18 on x86_64 has no MADV_POPULATE_WRITE: the memory of a copy is allocated "
            "while the process stands still",
        ),
    ]


def test_a_kernel_without_guards_loses_nothing_by_not_showing_them() -> None:
    old = without("MADV_GUARD_INSTALL", "guards in PAGEMAP_SCAN", "guards in VmFlags")
    assert {each.mark for each in host(old)} == {Mark.OK}
    assert Mark.NOTE in {each.mark for each in host(without("guards in PAGEMAP_SCAN"))}


def test_features_that_cannot_be_tried_are_no_features_that_are_lacking() -> None:
    assert host(replace(HOST, features={}))[0] == note(
        "kernel", "Linux 6.18 on x86_64: /proc does not show us what its features are tried on"
    )


@pytest.mark.parametrize(
    ("why", "step"),
    [
        ("the kernel does not mark the pages that a process writes (soft-dirty)", "try hold=fork"),
        ("the kernel does not show us page frames (CAP_SYS_ADMIN)", "run it as root"),
    ],
)
def test_precopy_that_is_a_copy(why: str, step: str) -> None:
    finding = note("hold=precopy", f"it is hold=copy here: {why}", step)
    assert finding in host(replace(HOST, why_not_ahead=why))


def test_why_there_is_no_bpf() -> None:
    found = host(replace(HOST, bpf=Choice.neither("the kernel has no BTF")))
    assert [each.fact for each in found if each.topic == "BPF"] == [
        "mappings come from smaps, which takes longer, and registers of threads that sleep are not "
        "seen without a stop: the kernel has no BTF",
    ]
    unbuilt = host(replace(HOST, bpf=Choice(why_not="x.bpf.o was not built")))
    assert unbuilt[-1] == note(
        "BPF",
        "mappings come from smaps, which takes longer: x.bpf.o was not built",
        "make builds it in a checkout, with clang",
    )


def test_security_modules() -> None:
    assert {each.mark for each in security(Security())} == {Mark.OK}
    confined = Security(label="docker-default (enforce)", lockdown="confidentiality")
    assert [each for each in security(confined) if each.mark is not Mark.OK] == [
        note(
            "AppArmor",
            "the profile docker-default confines us: of processes outside of it none can have a "
            "core",
            "docker, podman: --security-opt apparmor=unconfined",
        ),
        note(
            "lockdown",
            "it is confidentiality: BPF may not read the kernel's memory",
            "boot with lockdown=integrity",
        ),
    ]
    denying = Security(is_selinux_enforcing=True, is_ptrace_denied=True)
    assert security(denying)[0] == note("SELinux", "deny_ptrace is on", "setsebool deny_ptrace off")
    assert security(Security(is_selinux_enforcing=True))[0].mark is Mark.NOTE


def test_the_state_of_lockdown() -> None:
    texts = ["none [integrity] confidentiality", "[none] integrity", ""]
    assert [*map(parse_lockdown, texts)] == ["integrity", "none", ""]


def mountinfo(options: str) -> bytes:
    return f"22 1 0:21 / /proc rw,relatime - proc proc {options}\n".encode()


def test_options_of_proc() -> None:
    assert is_subset(mountinfo("rw,subset=pid"))
    assert not is_subset(mountinfo("rw,subset=pid") + mountinfo("rw"))
    hiding = ProcView(ProcOptions("invisible", 5))
    assert proc_view(hiding, USER) == [
        note("/proc", "hidepid=invisible hides processes that you may not trace", "run it as root")
    ]
    assert proc_view(hiding, ROOT) == proc_view(ProcView(ProcOptions()), USER)
    assert proc_view(replace(hiding, is_member=True), USER)[0].mark is Mark.OK
    ptraceable = ProcView(ProcOptions("ptraceable", 5), is_member=True)
    assert proc_view(ptraceable, USER)[0].mark is Mark.NOTE
    assert proc_view(ProcView(ProcOptions(), is_subset=True), ROOT)[0].mark is Mark.NOTE


def test_memory_for_a_copy_is_what_everybody_leaves() -> None:
    assert ROOM.for_copies == 400 * MIB
    assert replace(ROOM, available=300 * MIB).for_copies == 200 * MIB
    group = Limit(size=160 * MIB, left=60 * MIB)
    assert replace(ROOM, groups=(group,)).for_copies == 50 * MIB
    assert replace(ROOM, available=MIB).for_copies == 0


def test_limits_are_told() -> None:
    step = "take it with --hold precopy -o FILE, or with --spool DIR"
    group = Limit(size=160 * MIB, left=60 * MIB)
    tight = replace(ROOM, groups=(group,), files=256, processes=20, file_size=1 << 20)
    assert headroom(tight) == [
        note(
            "memory",
            "900 MiB are available, 0 MiB of swap free: a copy may take 50 MiB, less than "
            "copy_limit (400 MiB)",
            step,
        ),
        note(
            "memory",
            "our control group may have 160 MiB, and 60 MiB are left",
            f"for a larger process, {step}",
        ),
        note(
            "limits",
            "RLIMIT_NOFILE is 256: a mount holds fewer processes at one time",
            "ulimit -Hn 65536, as root",
        ),
        note(
            "limits",
            "RLIMIT_NPROC is 20: each stop takes a process and some threads of it",
            "ulimit -u unlimited",
        ),
        note(
            "limits",
            "RLIMIT_FSIZE is 1048576 bytes: no core in a file can be larger",
            "ulimit -f unlimited",
        ),
    ]
    assert [each.mark for each in headroom(ROOM)] == [Mark.OK, Mark.OK]
    assert headroom(replace(ROOM, file_size=0))[-1].mark is Mark.PROBLEM


STATUS = {"Uid": b"1000\t1000\t1000\t1000", "CapPrm": b"0000000000000000"}


def test_why_the_kernel_says_no() -> None:
    own = parse_rights(STATUS, owner=1000)
    assert own == Rights(frozenset({1000}), 0, True)
    unknown = "a security module, or another user namespace, protects it"
    hidden = "it is not dumpable: its program is set-user-ID or unreadable, or asked for that"
    for rights, caller, why in (
        (own, ROOT, unknown),
        (own, USER, unknown),
        (own, replace(USER, uid=5), "it belongs to uid 1000, and you are uid 5"),
        (
            replace(own, uids=frozenset({0, 1000})),
            USER,
            "it belongs to uid 0, 1000, and you are uid 1000",
        ),
        (parse_rights(STATUS, owner=0), USER, hidden),
        (replace(own, permitted=1), USER, "it has capabilities that you lack"),
        (
            own,
            replace(USER, ptrace_scope=1),
            "Yama (ptrace_scope 1) allows it only to an ancestor of it",
        ),
    ):
        assert why_denied(rights, caller) == why


def test_a_refusal_names_the_next_step() -> None:
    traced = ProcessError(Reason.TRACED, 7, "TracerPid 8")
    assert refused(traced, "gdb") == problem(
        "core",
        "another tracer holds it: detach that debugger first (TracerPid 8): gdb",
        "end that tracer; --policy @glance needs no stop",
    )
    foreign = ProcessError(Reason.FOREIGN, 7, "aarch64, 32 bits")
    assert refused(foreign).fact == (
        "it is a program for a machine that gcorefs does not support (aarch64, 32 bits)"
    )


def priced(size: int, stop: float, copy: float) -> list[Cost]:
    seconds = dict.fromkeys(POLICIES, 0.01) | {"hold=stop": stop, "hold=copy": copy}
    return [Cost(name, size, seconds[name]) for name in POLICIES]


def advised(size: int, stop: float, copy: float, machine: Machine = MACHINE) -> str:
    return advice(costs(priced(size, stop, copy), machine)).policy


def test_the_cheapest_that_is_good_enough_is_advised() -> None:
    no_marks = replace(MACHINE, host=replace(HOST, why_not_ahead="no marks"))
    assert advised(MIB, 0.02, 0.01) == "hold=stop"
    assert advised(300 * MIB, 0.2, 0.05) == "hold=copy"
    assert advised(300 * MIB, 9.0, 3.0) == "hold=precopy"
    assert advised(300 * MIB, 9.0, 3.0, no_marks) == "hold=copy"
    assert advised(500 * MIB, 9.0, 3.0) == "hold=precopy"
    assert advised(500 * MIB, 9.0, 3.0, no_marks) == "@stacks"


def test_what_a_policy_is_here_costs_as_much_as_that() -> None:
    host_ = replace(HOST, why_not_ahead="no marks", can_fork=False)
    found = {each.policy: each for each in costs(priced(500 * MIB, 9.0, 3.0), MACHINE)}
    assert found["hold=copy"] == Cost(
        "hold=copy", 500 * MIB, 9.0, "as hold=stop: a copy may take only 400 MiB"
    )
    assert found["hold=precopy"].instead == ""
    poor = costs(priced(MIB, 9.0, 3.0), replace(MACHINE, host=host_))
    found = {each.policy: each for each in poor}
    assert found["hold=precopy"] == Cost("hold=precopy", MIB, 3.0, "as hold=copy: no marks")
    assert found["hold=fork"].stop_seconds == 3.0
    assert found["@stacks"].instead == ""


def test_precopy_says_where_the_copy_goes_if_memory_is_short() -> None:
    found = advice(costs(priced(500 * MIB, 9.0, 3.0), MACHINE))
    assert found.why == (
        "most is copied while the process runs, and -o FILE keeps the copy on a disk, because "
        "memory is short"
    )

"""What the sources tell of one process: each is true, and what two of them tell is the same."""

import subprocess
from collections.abc import Callable, Sequence

import pytest

from gcorefs.arch.i386 import I386
from gcorefs.arch.machine import Machine, RegisterKind
from gcorefs.arch.x86_64 import X86_64
from gcorefs.elfcore.provenance import How
from gcorefs.sources.procfs import ProcMappings, ProcRegisters, maps
from gcorefs.sources.protocols import MappingSource, RegisterSource
from gcorefs.sources.ptrace import PtraceRegisters
from gcorefs.sources.thread_record import ThreadRecord
from tests.conftest import Target
from tests.live.accounts import held

Spawn = Callable[..., Target]

MACHINES = pytest.mark.parametrize(
    ("program", "machine"), [("registers", X86_64), ("registers32", I386)]
)


def told_by_syscall(machine: Machine) -> Sequence[str]:
    return (
        machine.call_number, *machine.call_arguments, machine.stack_pointer,
        machine.program_counter,
    )  # fmt: skip


@MACHINES
def test_a_thread_that_sleeps_is_told_of_in_part_and_not_disturbed(
    program: str, machine: Machine, spawn: Spawn
) -> None:
    target = spawn(program, 3, "blocked")
    source: RegisterSource = ProcRegisters(target.pid, machine)
    tids = [thread["tid"] for thread in target.truth["threads"]]
    found = [source.record(tid) for tid in tids]
    with held(target.pid) as snapshot:
        stopped = {record.tid: record for record in snapshot.records}
    assert [record.tid for record in found] == tids
    for record in found:
        assert record.how is How.PARTIAL
        assert [kind for kind in RegisterKind if kind in record.registers] == [RegisterKind.GENERAL]
        at_its_stop = stopped[record.tid]
        assert at_its_stop.how is How.STOPPED
        told = told_by_syscall(machine)
        for name in machine.general:
            expected = machine.word(at_its_stop.registers.general, name) if name in told else 0
            assert machine.word(record.registers.general, name) == expected, name


def test_nothing_is_made_up_of_a_thread_that_runs(spawn: Spawn) -> None:
    target = spawn("registers", 3, "spin")
    source: RegisterSource = ProcRegisters(target.pid, X86_64)
    for thread in target.truth["threads"]:
        # One that waits for a CPU is told of: where it was interrupted, and in no call.
        record = source.record(thread["tid"])
        if record.how is How.PARTIAL:
            assert X86_64.word(record.registers.general, "orig_rax") == -1
        else:
            assert record == ThreadRecord(thread["tid"])


@MACHINES
def test_a_thread_in_its_stop_has_every_set_of_its_machine(
    program: str, machine: Machine, spawn: Spawn
) -> None:
    target = spawn(program, 3, "blocked")
    with held(target.pid) as snapshot:
        records = snapshot.records
        assert len(records) == 4
        for record in records:
            registers = record.registers
            assert len(registers[RegisterKind.GENERAL]) == machine.general_size
            for regset in machine.regsets:
                if regset.kind in (RegisterKind.FLOATING_POINT, RegisterKind.FXSAVE):
                    assert len(registers[regset.kind]) == regset.size
            assert len(registers[RegisterKind.XSTATE]) >= 576
            assert RegisterKind.KERNEL_XSTATE not in registers


@pytest.mark.parametrize("kind", ["procfs", "ptrace"])
def test_a_thread_that_is_gone_has_no_record(kind: str) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    sources: dict[str, RegisterSource] = {
        "procfs": ProcRegisters(process.pid, X86_64),
        "ptrace": PtraceRegisters(process.pid),
    }
    with pytest.raises(ProcessLookupError):
        sources[kind].record(process.pid)


def test_mappings_are_those_that_the_program_has(spawn: Spawn) -> None:
    target = spawn("threads", 2)
    source: MappingSource = ProcMappings(target.pid)
    with maps(target.pid) as text:
        lines = text.splitlines()
    expected = [tuple(int(word, 16) for word in line.split()[0].split(b"-")) for line in lines]
    assert [(vma.start, vma.end) for vma in source.mappings()] == expected

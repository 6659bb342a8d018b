"""Mappings from BPF: the same as smaps shows, for every kind of memory, and no smaps is read."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gcorefs.arch import HOST
from gcorefs.elfcore.layout import Source
from gcorefs.elfcore.vm_bits import VmBits
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.policy import Policy
from gcorefs.sources import bpf_choice
from gcorefs.sources.bpf.loading import Choice
from gcorefs.sources.bpf.mappings import BpfMappings, Program
from gcorefs.sources.procfs import ProcMappings
from tests.conftest import Target, wait_until_asleep
from tests.families import MIB, PAGE, Family
from tests.features import needs_bpf, why_no_bpf, why_no_bpf_registers
from tests.snapshot import Snapshot, find

Spawn = Callable[..., Target]


class Refused:
    """A source for what must not be asked."""

    def mappings(self) -> Sequence[Vma]:
        raise AssertionError("smaps was read")


def program() -> Program:
    found = bpf_choice.in_use().program
    assert found is not None
    return found


def from_bpf(pid: int) -> list[Vma]:
    return [*BpfMappings(pid, program(), Refused()).mappings()]


def assert_as_in_smaps(pid: int) -> list[Vma]:
    """All but the counts; and an anon_vma wherever there are anonymous pages."""
    found, expected = from_bpf(pid), ProcMappings(pid).mappings()
    kept = [(each.start, each.end, each.kind, each.offset) for each in expected]
    assert [(each.start, each.end, each.kind, each.offset) for each in found] == kept
    for one, other in zip(found, expected, strict=True):
        # hugetlbfs pages are not counted, and a page of tmpfs is swapped out without an anon_vma.
        if other.pages.anonymous:
            assert one.pages.has_anon_vma, hex(one.start)
        if not one.pages.has_anon_vma:
            assert (one.pages.anonymous, one.pages.swapped, one.pages.shared) == (0, 0, 0)
        else:
            assert (one.pages.anonymous, one.pages.swapped) == (None, None)
    return found


@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize(
    "words",
    [("memory", "DIR"), ("holes", "DIR"), ("reserve", 4, 300), ("threads", 5), ("mappings", 20_000),
     ("uffd",), ("sparse",), ("registers", 2, "blocked")],
    ids=lambda words: words[0],
)  # fmt: skip
def test_the_mappings_are_those_of_smaps(
    spawn: Spawn, tmpfs: Path, words: tuple[object, ...]
) -> None:
    target = spawn(*(tmpfs if word == "DIR" else word for word in words))
    assert_as_in_smaps(target.pid)


@pytest.mark.usefixtures("bpf")
def test_the_rarer_mappings_are_those_of_smaps(kinds: Callable[[], Target]) -> None:
    found = assert_as_in_smaps(kinds().pid)
    flags = VmFlag.NONE
    for vma in found:
        flags |= vma.vm_flags
    assert VmFlag.HUGETLB | VmFlag.DONTDUMP | VmFlag.SHARED | VmFlag.WIPEONFORK in flags


@pytest.mark.usefixtures("bpf")
def test_mappings_are_seen_through_any_living_thread(spawn: Spawn) -> None:
    """As in a process whose main thread has ended."""
    target = spawn("threads", 3)
    (first, second) = (from_bpf(tid) for tid in sorted(target.states())[:2])
    assert first == second


# What a fork shares.


def shared_of(pid: int, family: Family) -> set[int | None]:
    """What is said of the pages of a family's memory that others map too."""
    return {
        vma.pages.shared
        for vma in from_bpf(pid)
        if vma.start < family.end and family.start < vma.end
    }


@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize("memory", ["small", "data", "thp", "moved"])
def test_memory_may_be_shared_after_a_fork_and_not_before(spawn: Spawn, memory: str) -> None:
    family = Family(spawn, memory, "keeps", 4 * MIB)
    child, parent = family.pids
    assert shared_of(child, family) == {None}
    assert shared_of(parent, family) == {None}
    alone = Family(spawn, memory, "alone", 4 * MIB)
    assert shared_of(alone.pids[0], alone) == {0}


# What is read in a stop.


@pytest.fixture
def opened_files() -> Iterator[list[str]]:
    """The paths that this process opens, in all its threads."""
    seen: list[str] = []
    is_watching = [True]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and is_watching[0]:
            seen.append(str(arguments[0]))

    sys.addaudithook(watch)  # nobody can take it away again
    yield seen
    is_watching[0] = False


@pytest.mark.usefixtures("bpf")
def test_a_stop_reads_no_smaps(kinds: Callable[[], Target], opened_files: list[str]) -> None:
    target = kinds()
    for policy, is_read in ((Policy(), False), (Policy(bpf="off"), True)):
        opened_files.clear()
        snapshot = Snapshot(find(target.pid), policy=policy)
        try:
            snapshot.take()
        finally:
            snapshot.close()
        assert f"/proc/{target.pid}/maps" in opened_files or is_read
        assert (f"/proc/{target.pid}/smaps" in opened_files) == is_read


def pages_of(pid: int, policy: Policy) -> dict[int, bytes]:
    """The pages in a core, by their addresses, but for literal zeros."""
    snapshot = Snapshot(find(pid), policy=policy)
    try:
        snapshot.take()
        layout = snapshot.layout
        return {
            extent.at + at: snapshot.read(extent.offset + at, PAGE)
            for extent in layout.extents(layout.memory_offset, snapshot.size)
            if extent.source is Source.MEMORY
            for at in range(0, extent.length, PAGE)
        }
    finally:
        snapshot.close()


@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize("memory", ["filter", "kernel", "all", "text", "0x7f"])
@pytest.mark.parametrize("name", ["reserve", "mappings", "memory", "threads"])
def test_a_core_differs_only_in_mappings_that_were_written_and_emptied(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, memory: str
) -> None:
    # Without this, the kernel writes the current processor into each thread's memory (rseq(2)).
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
    words = {"reserve": (1, 300), "mappings": (5000,), "memory": (tmp_path,), "threads": (5,)}
    target = spawn(name, *words[name])
    wait_until_asleep(target.pid)
    found = pages_of(target.pid, Policy(memory=memory))
    without = pages_of(target.pid, Policy(memory=memory, bpf="off"))
    assert {page: found.get(page) for page in without} == without
    counts = {vma.start: vma.pages.anonymous for vma in ProcMappings(target.pid).mappings()}
    emptied = [
        range(vma.start, vma.end)
        for vma in from_bpf(target.pid)
        if vma.pages.has_anon_vma and not counts[vma.start]
    ]
    assert all(any(page in each for each in emptied) for page in found.keys() - without.keys())


# Where BPF does not suffice.


@pytest.mark.usefixtures("bpf")
def test_smaps_is_read_where_a_flag_is_not_known(kinds: Callable[[], Target]) -> None:
    pid = kinds().pid
    groups = [group for group in program().bits.groups if VmFlag.DONTDUMP not in group[1]]
    poorer = Program(program().descriptor, VmBits(groups))
    found = BpfMappings(pid, poorer, ProcMappings(pid)).mappings()
    # Not the counts: pages may be swapped out or in between two readings of smaps.
    assert [(vma.start, vma.end, vma.kind) for vma in found] == [
        (vma.start, vma.end, vma.kind) for vma in ProcMappings(pid).mappings()
    ]
    assert any(vma.pages.anonymous for vma in found)
    with pytest.raises(AssertionError, match="smaps was read"):
        BpfMappings(pid, poorer, Refused()).mappings()


@pytest.mark.usefixtures("bpf")
def test_smaps_is_read_where_no_iterator_can_be_had(spawn: Spawn) -> None:
    pid = spawn("threads", 1).pid
    with open(os.devnull, "rb") as file:
        no_program = Program(file.fileno(), program().bits)
        found = BpfMappings(pid, no_program, ProcMappings(pid)).mappings()
        assert any(vma.pages.anonymous for vma in found)


@pytest.mark.usefixtures("bpf")
def test_a_process_that_is_gone_is_gone(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    target.kill()
    with pytest.raises(ProcessLookupError):
        BpfMappings(target.pid, program(), ProcMappings(target.pid)).mappings()


@pytest.mark.usefixtures("bpf")
def test_a_process_that_maps_meanwhile_is_seen_whole_or_by_smaps(spawn: Spawn) -> None:
    """Its threads run, so maps and BPF may differ: then smaps is asked."""
    target = spawn("churn", "threads")
    asked = 0

    class Asked:
        def mappings(self) -> Sequence[Vma]:
            nonlocal asked
            asked += 1
            return ProcMappings(target.pid).mappings()

    for _ in range(300):
        vmas = BpfMappings(target.pid, program(), Asked()).mappings()
        ends = [end for vma in vmas for end in (vma.start, vma.end)]
        assert ends == sorted(ends)
    assert asked < 300


# Where the kernel lacks something.

BTF = Path("/sys/kernel/btf/vmlinux")


def test_it_is_used_wherever_the_kernel_has_iterators_of_one_process() -> None:
    """All other tests are skipped where it cannot be had, so they do not show this."""
    # kernel/bpf/task_iter.c has this function since Linux 6.1, and BTF the names of all functions.
    can = BTF.exists() and b"\0bpf_iter_attach_task\0" in BTF.read_bytes()
    expected = "" if can else "the kernel has no iterators of one process"
    assert why_no_bpf() == (expected if BTF.exists() else "the kernel has no BTF")
    if HOST.saved_threads is not None:
        assert why_no_bpf_registers() == why_no_bpf()


MAP_DROPPABLE, MAP_HUGETLB = 0x8, 0x40000


@pytest.mark.parametrize("missing", [MAP_DROPPABLE, MAP_HUGETLB], ids=["droppable", "hugetlb"])
def test_it_is_loaded_where_a_kind_of_mapping_cannot_be_had(missing: int) -> None:
    needs_bpf()
    script = f"""if True:
        import errno, mmap
        class Older(mmap.mmap):
            def __new__(cls, fileno, length, flags=mmap.MAP_SHARED, *words):
                if flags & {missing} == {missing}:
                    raise OSError(errno.EINVAL, "an older kernel")
                return super().__new__(cls, fileno, length, flags, *words)
        mmap.mmap = Older
        from gcorefs.sources import bpf_choice
        print(bpf_choice.choose("auto"))
    """
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "mappings come from BPF\n"


# When a single stop loads it.


def test_one_stop_loads_it_if_smaps_would_take_longer(spawn: Spawn) -> None:
    """In a program with one thread, as gcorefs dump is."""
    needs_bpf()
    pid = spawn("threads", 1).pid
    told = [chosen(pid, bpf, long_walk) for bpf in ("auto", "off") for long_walk in (0, 1 << 30)]
    assert told == ["mappings come from BPF", *["mappings come from smaps: nobody has asked"] * 3]


def chosen(pid: int, bpf: str, long_walk: int) -> str:
    script = (
        "import gcorefs; from gcorefs import tuning; from gcorefs.sources import bpf_choice;"
        f"tuning.use(tuning.Tuning(long_walk={long_walk}));"
        f"policy = gcorefs.Policy(bpf={bpf!r});"
        f"stop = gcorefs.stop({pid}, policy);"
        "stop.__enter__(); stop.core(); stop.__exit__();"
        "print(bpf_choice.in_use())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip().removesuffix(" for BPF")


@pytest.mark.parametrize(
    ("mappings", "registers", "text"),
    [
        ("", "", "mappings come from BPF"),
        ("why", "why", "mappings come from smaps: why"),
        (
            "",
            "not known for this machine",
            "mappings come from BPF; registers of threads that are not stopped come from /proc: "
            "not known for this machine",
        ),
        (
            "it was not built",
            "",
            "mappings come from smaps: it was not built; registers of threads that are not stopped "
            "come from BPF",
        ),
    ],
)
def test_the_log_says_what_each_comes_from(mappings: str, registers: str, text: str) -> None:
    assert str(Choice(None, mappings, None, registers)) == text

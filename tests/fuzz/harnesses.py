"""One harness for each parser: its input, and the one error that it may raise.

A harness is a function of the bytes that the fuzzer has made.  Another error or a failed assertion
is a finding.  The seeds are files of /proc of this process itself: to read those of others could
mean to wait for them.
"""

import dataclasses
import io
import re
import struct
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gcorefs"]):
    from gcorefs.arch import MACHINES
    from gcorefs.arch.machine import Machine
    from gcorefs.arch.x86_64 import X86_64
    from gcorefs.arch.xsave import xsave_components
    from gcorefs.cli import picture
    from gcorefs.elfcore import file_notes, notes, program, space
    from gcorefs.elfcore.core_bytes import CoreError
    from gcorefs.elfcore.corefile import read_core
    from gcorefs.elfcore.elf import CLASSES
    from gcorefs.elfcore.header_store import Pieces
    from gcorefs.elfcore.layout import Layout, Source
    from gcorefs.elfcore.loads import load
    from gcorefs.elfcore.registers import Registers
    from gcorefs.elfcore.segments import Segment, Segments, that_fit
    from gcorefs.elfcore.smaps import parse_smaps
    from gcorefs.elfcore.vma import MapsError
    from gcorefs.export import seek_table
    from gcorefs.export.seek_table import SeekTable, TableError
    from gcorefs.kernel.proc import (
        current_call,
        leases,
        task_stat,
        task_status,
        user_namespaces,
    )
    from gcorefs.kernel.proc.membership import parse_groups
    from gcorefs.kernel.proc.procfile import FormatError
    from gcorefs.mount.mountpoints import MountError, mounts_in
    from gcorefs.mount.names import pid_of, pid_written
    from gcorefs.mount.options import MountPolicy, Options, parse
    from gcorefs.mount.policy_names import IN_NAMES, difference, longer_than, policy_named
    from gcorefs.option import OptionError
    from gcorefs.policy import Policy
    from gcorefs.process.group_names import in_container, in_pod, in_unit
    from gcorefs.profile_file import ProfileError, parse_profiles
    from gcorefs.profiles import text_of
    from gcorefs.sources import restart
    from tests.pure.cores import account_of, made, mapped

LONGEST = 4096
"""Longer inputs reach no more code in any parser, and slow the fuzzer down."""


@dataclass(frozen=True)
class Harness:
    name: str
    function: Callable[[bytes], object]
    error: type[Exception] | tuple[()]
    """The error that it may raise; none: ()."""
    seeds: tuple[str | bytes, ...]
    """Glob patterns of paths below /proc, and literal bytes."""
    entry: bytes
    """The end of each whole entry of a long text, as a pattern."""

    def __call__(self, data: bytes) -> None:
        try:
            self.function(data)
        except self.error as error:
            line = str(error)
            assert line
            assert line.isprintable(), line

    def corpus(self) -> Iterable[bytes]:
        for seed in self.seeds:
            if isinstance(seed, bytes):
                yield seed
                continue
            for path in Path("/proc").glob(seed):
                text = path.read_bytes()
                begin = end = 0
                for match in re.finditer(self.entry, text):
                    if match.end() - begin > LONGEST:
                        yield text[begin:end]
                        begin = end
                    end = match.end()
                yield text[begin:end]


HARNESSES: dict[str, Harness] = {}


def harness(
    error: type[Exception] | tuple[()], *seeds: str | bytes, entry: bytes = rb"\n"
) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
    def add(function: Callable[[bytes], object]) -> Callable[[bytes], object]:
        name = function.__name__
        HARNESSES[name] = Harness(name, function, error, seeds, entry)
        return function

    return add


@harness(
    OptionError, b"idle_timeout=5,allow_other", b"stop_timeout=1e3", b"unresponsive=omit,fsname=a"
)
def options(data: bytes) -> None:
    # As in sys.argv: bytes that are not UTF-8 are lone surrogates (PEP 383).
    words = [word.decode("utf-8", "surrogateescape") for word in data.split(b"\0")]
    ours, fuse = parse(words)
    assert 0 <= ours.idle_timeout <= 1e9
    assert 0 <= ours.max_stop <= 1e9
    assert 0 <= ours.stop_timeout <= 1e9
    assert ours.unresponsive in ("partial", "zero", "omit", "fail")
    assert isinstance(ours, Options)
    assert min(ours.user_files, ours.max_stops, ours.user_memory) >= 1
    assert {"nosuid", "default_permissions", "subtype=gcorefs"} <= fuse
    assert not any("," in word for word in fuse)


@harness(
    FormatError, "self/stat", "self/task/*/stat", b"2 (kthreadd) S 0 0 0 0 -1 2129984" + b" 0" * 43
)
def stat(data: bytes) -> None:
    found = task_stat.parse_stat(data)
    assert b"(" + found.comm + b")" in data
    assert len(found.state) > 0


@harness((), "self/status", "self/task/*/status")
def status(data: bytes) -> None:
    for key, value in task_status.parse_status(data).items():
        assert ":" not in key
        assert b"\n" not in value


@harness(FormatError, "self/syscall", b"running\n", b"0 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8\n")
def system_call(data: bytes) -> None:
    current_call.parse_system_call(data)


@harness(FormatError, "locks", b"2: LEASE  ACTIVE    WRITE 201 00:01:22 0 EOF\n")
def locks(data: bytes) -> None:
    leases.parse_leases(data.splitlines())


@harness((), "self/uid_map", b"         0       1000          1\n")
def id_map(data: bytes) -> None:
    assert user_namespaces.id_inside(data, 1000) >= 0


@harness(MapsError, "self/smaps", entry=rb"VmFlags:.*\n")
def smaps(data: bytes) -> None:
    border = 0
    for vma in parse_smaps(data):
        assert border <= vma.start < vma.end <= 1 << 64
        assert vma.start % 4096 == vma.end % 4096 == 0
        border = vma.end


@harness(FormatError, "self/cgroup", b"0::/system.slice/docker-0123456789abcdef.scope\n")
def membership(data: bytes) -> None:
    groups = parse_groups(data)
    assert len(groups) == data.count(b"\n")
    for ask in (in_unit("x"), in_container("0123456789ab"), in_pod("0123456789ab")):
        ask(groups)


@harness((), b"\x7fELF\2\1" + bytes(58), b"\4\0\0\0\x10\0\0\0\3\0\0\0GNU\0" + bytes(16))
def file_note(data: bytes) -> None:
    for offset, size in file_notes.note_ranges(data):
        assert offset >= 0
        assert 0 <= size <= file_notes.MOST_NOTES
    for note in file_notes.notes(data):
        assert note.desc in data


@harness(MountError, "self/mountinfo")
def mountinfo(data: bytes) -> None:
    mounts_in(data)


@harness((), b"1234", b"0123", b"1234\n")
def names(data: bytes) -> None:
    assert pid_of(data) == (int(data) if re.fullmatch(rb"[1-9][0-9]{0,8}", data) else 0)
    assert pid_written(data) == pid_of(data.removesuffix(b"\n"))


_MOUNT = Options(max_stop=9.0, memory="kernel")


@harness(
    OptionError,
    b"@all",
    b"@threads,hold=copy",
    b"@memory=0x33+text,unresponsive=omit",
    b"@stop_timeout=1e-3,idle_timeout=5,max_stop=0",
    b"@allow_other",
)
def policy_names(data: bytes) -> None:
    """Every policy that a name may mean has one text, and that is a name of it."""
    policy = policy_named(data, _MOUNT)
    assert type(policy) is MountPolicy
    again = difference(policy, _MOUNT)
    assert (policy_named(b"@" + again.encode(), _MOUNT) if again else _MOUNT.mount_policy) == policy
    assert longer_than(policy, _MOUNT).isprintable()


@harness(
    ProfileError,
    b'[profiles.night]\nmemory = "all"\nmax_stop = 5\n',
    b"profiles.a.hold = 'x'",
    b"[profiles]\na = {memory = '0x33'}\n",
)
def profile_file(data: bytes) -> None:
    profiles = parse_profiles("gcorefs.toml", data, IN_NAMES)
    for name in profiles:
        policy_named(b"@" + name.encode(), _MOUNT, profiles)


@harness(OptionError, b"@text", b"memory=none,hold=copy", b"xstate=raw,copy_limit=3")
def policies(data: bytes) -> None:
    policy = Policy.of(data.decode("utf-8", "surrogateescape"))
    assert Policy.of(text_of(dataclasses.asdict(policy))) == policy


@harness((), b"\0" * 600, b"\xff" * 1024)
def xsave(data: bytes) -> None:
    assert all(2 <= number < 63 for number in xsave_components(data))


@harness((), b"\0" * 216, struct.pack("<27q", *([-4] * 27)), struct.pack("<17i", *([-4] * 17)))
def registers(data: bytes) -> None:
    for machine, calls in product(MACHINES.values(), X86_64.conventions):
        # sources/ptrace.py refuses an incomplete register set before this.
        general = data[: machine.general_size].ljust(machine.general_size, b"\0")
        result = machine.word(general, machine.call_result)
        ask_calls = partial(int, calls)
        if restart.needs_restart(machine, general, ask_calls, lambda: False):
            assert result in (-4, -11)
        if restart.needs_restart(machine, general, ask_calls, lambda: True):
            assert result in (-4, -11, -516)  # see restart.py


_CORE = made(
    [Segment(1 << 16, 1 << 20, 1 << 20, 6, array("Q", [1 << 18]), array("Q", [1 << 19]))],
    account_of([], [(1 << 16, 1 << 17)], {1 << 16: "[heap]"}),
    files=[(mapped(1 << 17, 1 << 18), b"/file")],
).header
_CORE_32 = struct.pack(
    "<7s9xHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 4, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0
) + struct.pack("<8I", 1, 4096, 4096, 0, 4096, 8192, 5, 4096)


@harness(CoreError, _CORE, _CORE.rstrip(b"\0"), _CORE_32)
def core(data: bytes) -> None:
    """Every file that can be read as a core can be shown, with every byte of its segments."""
    found = read_core(io.BytesIO(data))
    rows = space.mappings(found)
    whole = space.total(rows)
    assert whole.size == sum(each.memsz for each in found.loads)
    shown = space.largest(space.by_file(rows), 5)
    assert len(shown) <= 5
    assert space.total(shown).size == whole.size
    for line in picture.draw(picture.Paper(80), found, whole, shown):
        assert line.isprintable(), line


_ROWS = array("I", [10, 100, 20, 200])


@harness(TableError, seek_table.packed(_ROWS), bytes(30) + seek_table.packed(_ROWS))
def seek_tables(data: bytes) -> None:
    """Every table that is taken has its frames in order, and nothing between them."""
    length = seek_table.table_size(data[-seek_table.FOOT_SIZE :], len(data))
    before = len(data) - length
    table = SeekTable(data[before:], before)
    border = 0
    for frame in table.frames(0, table.size):
        assert frame.start == border
        assert 0 <= frame.offset <= frame.offset + frame.size <= before
        border = frame.start + frame.length
    assert border == table.size


def _machine(provider: atheris.FuzzedDataProvider) -> Machine:
    machine: Machine = provider.PickValueInList(list(MACHINES.values()))
    return machine


def _segments(provider: atheris.FuzzedDataProvider, machine: Machine) -> list[Segment]:
    segments = []
    address = 0
    for _ in range(provider.ConsumeIntInRange(0, 20)):
        address += provider.ConsumeIntInRange(0, 1 << 40) << 12
        pages = provider.ConsumeIntInRange(1, 1 << 20)
        if address + (pages << 12) > machine.most:
            break
        kept = provider.PickValueInList([0, pages, 1])
        starts, ends = array("Q"), array("Q")
        at = 0
        while at < kept and provider.ConsumeBool():
            start = provider.ConsumeIntInRange(at, kept - 1)
            at = provider.ConsumeIntInRange(start + 1, kept)
            starts.append(address + (start << 12))
            ends.append(address + (at << 12))
            at += 1
        flags = provider.ConsumeIntInRange(0, 7)
        segments.append(Segment(address, pages << 12, kept << 12, flags, starts, ends))
        address += pages << 12
    return segments


@harness((), bytes(64), bytes(range(256)))
def extents(data: bytes) -> None:
    """Pieces of segments, zeros and header tile any piece of the file, in order."""
    provider = atheris.FuzzedDataProvider(data)
    machine = _machine(provider)
    segments = _segments(provider, machine)
    loads = load(that_fit(CLASSES[machine.word_size], Segments.of(segments), 1 << 20))
    layout = Layout(machine, loads, Pieces([bytes(provider.ConsumeIntInRange(0, 10000))]))
    populated = sum(each.populated for each in segments)
    assert layout.size <= len(layout.header) + populated * 3 // 2 + (1 << 26)
    offset = provider.ConsumeIntInRange(0, layout.size + 4096)
    length = provider.ConsumeIntInRange(0, layout.size + 4096)
    end = min(offset + length, layout.size)
    for extent in layout.extents(offset, length):
        assert extent.offset == offset
        assert extent.length > 0
        offset += extent.length
        if extent.source is Source.HEADER:
            assert extent.at + extent.length <= len(layout.header)
        elif extent.source is Source.MEMORY:
            start, stop = extent.at, extent.at + extent.length
            assert any(
                each.vaddr <= start and stop <= each.vaddr + each.filesz for each in segments
            )
            assert not any(
                start < high and low < stop
                for each in segments
                for low, high in zip(each.hole_starts, each.hole_ends, strict=True)
            )
    assert offset == end or offset > layout.size or not length


@harness((), bytes(300), bytes(range(256)) * 2)
def packers(data: bytes) -> None:
    """A reader can walk through the notes of every possible process."""
    provider = atheris.FuzzedDataProvider(data)

    def number(bits: int) -> int:
        return int(provider.ConsumeIntInRange(0, (1 << bits) - 1))

    machine = _machine(provider)
    # In 32-bit processes, seconds have 31 bits (struct old_timeval32).
    pid, microseconds = 31, 50
    ids = notes.ProcessIds(number(pid), number(pid), number(pid))
    sets = [
        [
            (regset.kind, provider.ConsumeBytes(512))
            for regset in machine.regsets
            if provider.ConsumeBool()
        ]
        for _ in range(number(2) + 1)
    ]
    threads = [
        notes.Thread(
            tid=number(pid),
            registers=Registers.of(bytes(machine.general_size), mine),
            signal=provider.ConsumeIntInRange(0, 64),
            pending=number(64),
            blocked=number(64),
            times=[number(microseconds) for _ in range(4)],
        )
        for mine in sets
    ]
    info = notes.ProcessInfo(
        pid=number(pid),
        ids=ids,
        state=provider.PickValueInList(list("RSDTtZXxKWPIN")),
        nice=provider.ConsumeIntInRange(-20, 19),
        flags=number(64),
        uid=number(32),
        gid=number(32),
        comm=provider.ConsumeBytes(64),
        arguments=provider.ConsumeBytes(100),
    )
    packed = notes.ProcessNotes(
        machine=machine,
        info=info,
        threads=threads,
        siginfo=(siginfo := provider.ConsumeBytes(128)),
        auxv=provider.ConsumeBytes(400),
        files=[],
        xsave_layout=[(number(6), number(32), number(32))],
    ).pack()
    text = bytes(packed)
    offset = count = 0
    while offset < len(text):
        namesz, descsz, _ = struct.unpack_from("<III", text, offset)
        offset += 12 + -(-namesz // 4) * 4 + -(-descsz // 4) * 4
        count += 1
    assert offset == len(text)
    # PRSTATUS of each, PRPSINFO, SIGINFO (perhaps), AUXV, FILE, the layout, and the register sets.
    assert count == 4 + bool(siginfo) + len(threads) + sum(map(len, sets))


@harness((), Path("/bin/sh").read_bytes()[:4096], b"\x7fELF\1\1\1" + bytes(64))
def module_in_memory(data: bytes) -> None:
    """What a process has at the address of a module is its own: no bytes are an error."""
    module = program.module_at(0x7F0000000000, data)
    for form in CLASSES.values():
        program.values(data, form)
        program.module_of(0x1000, data, form)
    if module is not None:
        for kind in (program.PT_LOAD, program.PT_DYNAMIC, program.PT_GNU_EH_FRAME):
            for start, _ in module.ranges(kind):
                module.load_around(start)

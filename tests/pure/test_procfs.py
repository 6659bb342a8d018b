"""/proc/PID/stat and status, of processes that name themselves to mislead a reader."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.process.procfs import Stat, parse_stat, parse_status

HOSTILE = [
    b") R 1 (", b"a b", b"a\nb", b"(", b")", b") ", b"\n", b"\t", b"x) Z 0 0 0", b"((()))",
    b"\xff\xfe", b"%s", b"1 (2) S 3", b"\\n", b"\r", b"a\rPid:\t1",
]  # fmt: skip

# Up to fifteen bytes without a NUL (prctl(2), PR_SET_NAME); a kernel worker's may be longer.
comms = st.one_of(
    st.sampled_from(HOSTILE),
    st.text("() \n\r\t:ZRS019", max_size=15).map(str.encode),
    st.binary(max_size=63).map(lambda name: name.replace(b"\0", b"")),
)

# proc(5), fields of /proc/PID/stat by number.
FIELDS = {
    "ppid": 4, "flags": 9, "utime": 14, "stime": 15, "cutime": 16, "cstime": 17, "nice": 19,
    "start_time": 22, "resident": 24, "argument_start": 48, "argument_end": 49,
}  # fmt: skip


def stat_line(comm: bytes, state: str = "S", **fields: int) -> bytes:
    """Every field that is not told holds its own number, so that a neighbour shows."""
    numbers = {number: number for number in range(4, 53)}
    numbers |= {FIELDS[name]: value for name, value in fields.items()}
    tail = " ".join(str(numbers[number]) for number in sorted(numbers))
    return b"4711 (%s) %s %s\n" % (comm, state.encode(), tail.encode())


@given(comms, st.sampled_from("RSDTtZXxIP"))
def test_no_name_moves_a_field(comm: bytes, state: str) -> None:
    assert asdict(parse_stat(stat_line(comm, state))) == {"comm": comm, "state": state, **FIELDS}


@given(
    st.fixed_dictionaries(
        {name: st.integers(-(1 << 63), (1 << 64) - 1) for name in FIELDS if name != "state"}
    )
)
def test_every_field_is_read_as_it_stands(fields: dict[str, int]) -> None:
    seen = asdict(parse_stat(stat_line(b"x", "S", **fields)))
    assert {name: seen[name] for name in fields} == fields


def _stat(state: str = "S", flags: int = 0) -> Stat:
    return parse_stat(stat_line(b"x", state, flags=flags))


@pytest.mark.parametrize(("state", "dead"), [(s, s in "ZXx") for s in "RSDTtZXxKWIP"])
def test_zombies_and_the_reaped_are_dead(state: str, dead: bool) -> None:
    assert _stat(state).is_dead is dead


@pytest.mark.parametrize(
    ("flags", "kernel_thread", "worker"),
    [
        (0x400040, False, False),
        (0x00200000, True, False),  # PF_KTHREAD
        (0x00000010, False, True),  # PF_IO_WORKER
        (0x00004000, False, True),  # PF_USER_WORKER
        (0xFFFFFFFF & ~0x00204010, False, False),
    ],
)
def test_kernel_threads_and_workers_are_told_by_their_flags(
    flags: int, kernel_thread: bool, worker: bool
) -> None:
    stat = _stat(flags=flags)
    assert (stat.is_kernel_thread, stat.is_worker) == (kernel_thread, worker)


def shown(comm: bytes) -> bytes:
    # fs/proc/array.c, proc_task_name: only newline and backslash are escaped in status.
    return comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")


STATUS = {
    "Umask": b"0022", "State": b"S (sleeping)", "Tgid": b"14", "TracerPid": b"0",
    "Uid": b"1000\t1000\t1000\t1000", "Groups": b"4 24", "NStgid": b"14\t1", "VmSwap": b"0 kB",
    "CapEff": b"000001ffffffffff", "Cpus_allowed_list": b"0-1",
}  # fmt: skip


def status_text(comm: bytes, **fields: bytes) -> bytes:
    rows = {"Name": shown(comm)} | STATUS | fields
    return b"".join(b"%s:\t%s\n" % (key.encode(), value) for key, value in rows.items())


@given(comms)
def test_no_name_adds_or_changes_a_key(comm: bytes) -> None:
    status = parse_status(status_text(comm))
    assert {key: value for key, value in status.items() if key != "Name"} == STATUS


@given(comms.map(bytes.strip))
def test_a_name_in_status_is_as_the_kernel_shows_it(comm: bytes) -> None:
    assert parse_status(status_text(comm))["Name"] == shown(comm)


def test_an_empty_value_is_there_and_empty() -> None:
    # A process in no supplementary group: "Groups:\t \n".
    assert parse_status(status_text(b"x", Groups=b" "))["Groups"] == b""


@pytest.fixture
def comm() -> Iterator[Path]:
    """The name of this very thread, given back afterwards."""
    path = Path("/proc/thread-self/comm")
    before = path.read_bytes().removesuffix(b"\n")
    with contextlib.ExitStack() as stack:
        stack.callback(path.write_bytes, before)
        yield path


@pytest.mark.parametrize("name", [name[:15] for name in HOSTILE if name.strip()])
def test_the_kernel_s_own_text_with_a_hostile_name(comm: Path, name: bytes) -> None:
    keys = parse_status(Path("/proc/thread-self/status").read_bytes()).keys()
    comm.write_bytes(name)
    stat = parse_stat(Path("/proc/thread-self/stat").read_bytes())
    status = parse_status(Path("/proc/thread-self/status").read_bytes())
    assert (stat.comm, stat.state) == (name, "R")
    assert status.keys() == keys
    assert status["Name"] == shown(name).strip()

"""/proc/PID/stat and status, of processes whose names are meant to mislead a reader."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import leases, procfile, system_files, task_stat, tasks, watches
from gcorefs.kernel.proc.current_call import parse_system_call
from gcorefs.kernel.proc.leases import parse_leases
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.kernel.proc.task_stat import Stat, parse_stat, parse_times
from gcorefs.kernel.proc.task_status import parse_status
from gcorefs.kernel.proc.user_namespaces import id_inside

HOSTILE = [
    b") R 1 (", b"a b", b"a\nb", b"(", b")", b") ", b"\n", b"\t", b"x) Z 0 0 0", b"((()))",
    b"\xff\xfe", b"%s", b"1 (2) S 3", b"\\n", b"\r", b"a\rPid:\t1",
]  # fmt: skip

# Up to fifteen bytes without NUL (prctl(2), PR_SET_NAME); names of kernel workers may be longer.
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
TIMES = "utime", "stime", "cutime", "cstime"


def stat_line(comm: bytes, state: str = "S", **fields: int) -> bytes:
    """Every other field has its own number as its value, so that a mix-up shows."""
    numbers = {number: number for number in range(4, 53)}
    numbers |= {FIELDS[name]: value for name, value in fields.items()}
    tail = " ".join(str(numbers[number]) for number in sorted(numbers))
    return b"4711 (%s) %s %s\n" % (comm, state.encode(), tail.encode())


@given(comms, st.sampled_from("RSDTtZXxIP"))
def test_no_name_moves_a_field(comm: bytes, state: str) -> None:
    line = stat_line(comm, state)
    assert asdict(parse_stat(line)) == {"comm": comm, "state": state, **FIELDS}
    assert parse_times(line) == tuple(FIELDS[name] for name in TIMES)


@given(
    st.fixed_dictionaries(
        {name: st.integers(-(1 << 63), (1 << 64) - 1) for name in FIELDS if name != "state"}
    )
)
def test_every_field_is_read_as_it_stands(fields: dict[str, int]) -> None:
    seen = asdict(parse_stat(stat_line(b"x", "S", **fields)))
    assert {name: seen[name] for name in fields} == fields
    assert parse_times(stat_line(b"x", "S", **fields)) == tuple(fields[name] for name in TIMES)


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
    """The name of this thread, which is restored afterwards."""
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


@pytest.mark.parametrize(
    ("parse", "last", "number"), [(parse_stat, b" 49 ", b" 22 "), (parse_times, b" 18 ", b" 14 ")]
)
def test_a_stat_that_is_not_the_kernel_s_is_refused(
    parse: Callable[[bytes], object], last: bytes, number: bytes
) -> None:
    line = stat_line(b"x")
    truncated = [line[:length] for length in range(line.index(last) + 1)]
    for text in (*truncated, line.replace(number, b" y ")):
        with pytest.raises(FormatError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (b"running\n", None),
        (b"-1 0x7ffe 0x55\n", (-1, [], 0x7FFE, 0x55)),
        (b"0 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8\n", (0, [1, 2, 3, 4, 5, 6], 7, 8)),
    ],
)
def test_a_system_call_is_read_as_it_stands(text: bytes, call: object) -> None:
    assert parse_system_call(text) == call


@pytest.mark.parametrize("text", [b"", b"x 1 2", b"1", b"1 2", b"1 0x1 y"])
def test_a_system_call_that_is_not_the_kernel_s_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_system_call(text)


LOCKS = b"""\
1: FLOCK  ADVISORY  WRITE 200 fd:01:11 0 EOF
2: LEASE  ACTIVE    WRITE 201 00:01:22 0 EOF
3: POSIX  ADVISORY  READ  202 fd:01:33 128 128
3: -> POSIX  ADVISORY  WRITE 203 fd:01:33 0 EOF
3: LEASE  ACTIVE    READ  204 00:01:44 0 EOF
4: DELEG  BREAKING  READ  -1 08:10:18446744073709551615 0 EOF
"""


def test_leases_and_delegations_are_told_from_locks() -> None:
    assert parse_leases(LOCKS.splitlines()) == {22: {"00:01"}, (1 << 64) - 1: {"08:10"}}


@pytest.mark.parametrize(
    "text", [b"\n", b"1:", b"1: LEASE", b"1: LEASE ACTIVE WRITE 2 00:01 0 EOF"]
)
def test_locks_that_are_not_the_kernel_s_are_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_leases(text.splitlines())


@pytest.mark.parametrize(
    ("number", "inside"), [(999, 65534), (1000, 0), (1001, 65534), (5000, 10), (5009, 19)]
)
def test_an_id_is_turned_by_the_map(number: int, inside: int) -> None:
    text = b"         0       1000          1\n        10       5000         10\n"
    assert id_inside(text, number) == inside


def system_file(monkeypatch: pytest.MonkeyPatch, content: bytes | OSError) -> None:
    """Replace the content of every file of /proc that belongs to no process, or make it fail."""

    def read_system(path: str, most: int = 0) -> bytes:
        if isinstance(content, OSError):
            raise content
        return content

    monkeypatch.setattr(procfile, "read_system", read_system)


NOT_TOLD = [
    FileNotFoundError(),
    PermissionError(),
    OSError(errno.EIO, ""),
    b"",
    b"\n",
    b"no number",
]


@pytest.mark.parametrize("content", NOT_TOLD, ids=repr)
def test_a_kernel_without_a_setting_for_lists_of_files_has_no_limit_to_tell(
    monkeypatch: pytest.MonkeyPatch, content: bytes | OSError
) -> None:
    system_file(monkeypatch, content)
    assert system_files.file_note_limit() is None


@pytest.mark.parametrize(
    "content",
    [*NOT_TOLD, b"MemFree: 7 kB\n", b"MemAvailable:\n", b"MemAvailable: x kB\n"],
    ids=repr,
)
def test_without_meminfo_what_nobody_uses_is_available(
    monkeypatch: pytest.MonkeyPatch, content: bytes | OSError
) -> None:
    system_file(monkeypatch, content)
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 3}.__getitem__)
    assert system_files.available_memory() == 3 * PAGE_SIZE


def test_available_memory_is_told_in_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    system_file(monkeypatch, b"MemTotal: 9 kB\nMemAvailable:      5 kB\n")
    assert system_files.available_memory() == 5 * 1024


@pytest.mark.parametrize("content", NOT_TOLD[:3], ids=repr)
def test_if_nobody_lists_leases_they_are_unknown(
    monkeypatch: pytest.MonkeyPatch, content: bytes | OSError
) -> None:
    system_file(monkeypatch, content)
    assert leases.leases(os.getpid()) is None


def test_an_empty_list_of_the_kernels_own_has_no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    system_file(monkeypatch, b"")
    monkeypatch.setattr(procfile, "is_kernels_own", lambda path: path == "locks")
    assert leases.leases(os.getpid()) == {}


def test_an_empty_file_over_the_list_tells_of_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    system_file(monkeypatch, b"")
    monkeypatch.setattr(procfile, "is_kernels_own", lambda path: path != "locks")
    assert leases.leases(os.getpid()) is None


KERNEL, USER = task_stat.PF_KTHREAD, 0
FLAGS = {1: USER, 2: KERNEL, 3: KERNEL, 4: KERNEL, 50: USER, 51: KERNEL, 52: USER}


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A /proc with these processes.  Some of their files can be read, once each."""
    files = {"2/task/2/stat": stat_line(b"kthreadd", flags=FLAGS[2])}

    def read(path: str, is_record: bool = False) -> bytes:
        if path not in files:
            raise FileNotFoundError if path.endswith("children") else ProcessLookupError
        first, _, rest = files[path].partition(b"|")
        files[path] = rest
        return first

    monkeypatch.setattr(procfile, "read", read)
    monkeypatch.setattr(tasks, "pids", lambda: [*FLAGS])
    return files


def user_pids() -> list[int]:
    """Asked by somebody who knows no kernel thread yet."""
    return tasks.user_pids(tasks.KernelThreads())


def test_kernel_threads_are_told_without_a_look_at_any(proc: dict[str, bytes]) -> None:
    # One of them is seen only before, one only after.
    proc["2/task/2/children"] = b"3 51 |3 4 "
    assert user_pids() == [1, 50, 52]
    assert not any(proc.values())


def test_a_program_that_the_kernel_started_is_listed_and_threads_are_looked_at_once(
    proc: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    known = tasks.KernelThreads()
    children = {pid: f"{pid}/task/{pid}/stat" for pid in (3, 51, 52)}
    for time, looked_at in ((100.0, [3, 51, 52]), (109.9, [52]), (110.0, [3, 51, 52])):
        now = time
        proc["2/task/2/stat"] = stat_line(b"kthreadd", flags=FLAGS[2])
        proc["2/task/2/children"] = b"3 51 52|3 51 52"
        proc |= {path: stat_line(b"x", flags=FLAGS[pid]) for pid, path in children.items()}
        assert tasks.user_pids(known) == [1, 4, 50, 52]
        assert [pid for pid, path in children.items() if not proc[path]] == looked_at


def test_there_is_no_kernel_thread_if_another_process_has_pid_2(
    proc: dict[str, bytes],
) -> None:
    proc["2/task/2/stat"] = stat_line(b"sh", flags=USER)
    assert user_pids() == [*FLAGS]
    del proc["2/task/2/stat"]
    assert user_pids() == [*FLAGS]


def test_a_kernel_without_lists_of_children_is_asked_for_each(proc: dict[str, bytes]) -> None:
    proc |= {f"{pid}/task/{pid}/stat": stat_line(b"x", flags=flags) for pid, flags in FLAGS.items()}
    proc["2/task/2/stat"] += b"|" + proc["2/task/2/stat"]
    del proc["52/task/52/stat"]  # it is gone
    assert user_pids() == [1, 50]


def test_what_hidepid_does_not_show_is_not_listed(
    proc: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hidepid=1 every name is in /proc, but we may look only at our own processes."""
    shown = {50: stat_line(b"ours", flags=USER), 52: stat_line(b"ours", flags=USER)}

    def read(path: str, is_record: bool = False) -> bytes:
        pid = int(path.split("/", maxsplit=1)[0])
        if pid not in shown:
            raise PermissionError(errno.EPERM, "", f"/proc/{path}")
        return shown[pid]

    monkeypatch.setattr(procfile, "read", read)
    assert user_pids() == [50, 52]


def test_a_process_is_not_asked_for_the_times_of_all_its_threads(proc: dict[str, bytes]) -> None:
    proc |= {"7/task/7/stat": stat_line(b"leader"), "7/task/8/stat": stat_line(b"other")}
    assert (task_stat.stat(7).comm, task_stat.stat(7, 8).comm) == (b"leader", b"other")


def test_the_kernel_threads_are_the_children_of_one() -> None:
    for pid in tasks.user_pids():
        with contextlib.suppress(ProcessLookupError):
            assert not task_stat.stat(pid).is_kernel_thread
    assert os.getpid() in tasks.user_pids()


WATCHES = b"""pos:\t0
flags:\t02004000
mnt_id:\t15
ino:\t1057
inotify wd:1 ino:403 sdev:1 mask:fff ignored_mask:0 fhandle-bytes:c fhandle-type:1 f_handle:0304
fanotify flags:4 event-flags:0
fanotify mnt_id:1d mflags:0 mask:1 ignored_mask:0
fanotify ino:1a sdev:1 mflags:0 mask:30000 ignored_mask:0
"""


def test_the_watched_inodes_are_those_of_the_marks() -> None:
    assert watches.parse_watches(WATCHES) == {0x403, 0x1A}
    with pytest.raises(FormatError):
        watches.parse_watches(b"inotify wd:1 ino:x sdev:1\n")


def test_if_open_files_are_not_shown_nobody_knows_what_is_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert watches.watched_inodes(os.getpid()) is None


def test_a_file_that_is_closed_meanwhile_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda path: ["100000000"])
    assert watches.watched_inodes(os.getpid()) == set()

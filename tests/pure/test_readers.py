"""What is understood of the output of readers, and how equal stacks are folded."""

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.cli.stack_text import Report, as_json, draw
from gcorefs.elfcore import file_notes
from gcorefs.readers import delve, eu_stack, gdb, jhsdb, program, pystack
from gcorefs.readers.fold import Style, fold, text
from gcorefs.readers.frames import GO, JAVA, NATIVE, PYTHON, Frame, Thread
from gcorefs.readers.languages import languages
from gcorefs.readers.process_stacks import native_reader

EU_STACK = """\
PID 22498 - core
TID 22498:
#0  0x00007ff4c9c5edd0 __libc_pause@@GLIBC_2.2.5 - libc.so.6
    [93ac61]@0x7ff4c9b8b000+0xd3dd0
    ../sysdeps/unix/sysv/linux/pause.c:29:10
#1  0x00007ff4c9d73120 - /tmp/lib.so (deleted)
    [2e1906]@0x7ff4c9d72000+0x111f
#2  0x00007ff4c9d73000
#3  0x0000562ac905f238 ns::f<int, (a)1>(int) - [vdso: 4711]
eu-stack: dwfl_thread_getframes tid 22498 at 0x562ac905f238 in /x: No DWARF information found
TID 7:
#0  0x00007ff4c9c5edd0 read - /srv/a b/libc.so.6
    some thing.c:7
"""


def test_eu_stack() -> None:
    assert eu_stack.parse(EU_STACK) == {
        22498: [
            Frame(
                "__libc_pause",
                "../sysdeps/unix/sysv/linux/pause.c:29",
                "libc.so.6",
                0xD3DD0,
                "93ac61",
                0x7FF4C9C5EDD0,
            ),
            Frame("", "", "lib.so", 0x111F, "2e1906", 0x7FF4C9D73120),
            Frame(address=0x7FF4C9D73000),
            Frame("ns::f<int, (a)1>(int)", module="[vdso]", address=0x562AC905F238),
        ],
        7: [Frame("read", "some thing.c:7", "libc.so.6", address=0x7FF4C9C5EDD0)],
    }


GDB = """\
[New LWP 5793]
#0  not_of_a_thread () at nowhere.c:1

Thread 2 (Thread 0x7fb01d5886c0 (LWP 5797) "worker-1"):
#0  syscall () at ../sysdeps/syscall.S:38
#1  0x000055d10b2213d5 in futex (timeout=..., val=...) at /tmp/target.h:75
#2  0x000055d10b2213d6 in std::function<void (int)>::operator()(int) const (this=...) at a b.h:590
#3  0x00007fb01d5e624a in ?? () from /lib/x86_64-linux-gnu/libc.so.6
#4  <signal handler called>
#5  0x0000000000000001 in ?? ()

Thread 1 (LWP 5793):
#0  0x00007fb01d5e624b in main ()
"""


def test_gdb() -> None:
    assert gdb.parse(GDB) == {
        5797: [
            Frame("syscall", "../sysdeps/syscall.S:38"),
            Frame("futex", "/tmp/target.h:75", address=0x55D10B2213D5),
            Frame(
                "std::function<void (int)>::operator()(int) const",
                "a b.h:590",
                address=0x55D10B2213D6,
            ),
            Frame(module="libc.so.6", address=0x7FB01D5E624A),
            Frame("<signal handler called>"),
            Frame(address=1),
        ],
        5793: [Frame("main", address=0x7FB01D5E624B)],
    }


PYSTACK = """\
Using executable found in the core file: /usr/bin/python3.11

Traceback for thread 28504 (python3) [] (most recent call last):
    (Python) File "/usr/lib/python3.11/threading.py", line 995, in _bootstrap
        self._bootstrap_inner()
    (Python) File "/srv/a, line 1, in b.py", line 34, in <module>

The frame stack for thread 28506 is empty

Traceback for thread 28507 (python3) [Has the GIL] (most recent call last):
    (Python) File "x.py", line 1, in f
"""


@pytest.mark.parametrize("space", "\v\f\x1c\x1d\x1e\x85\u2028\u2029\r")
def test_only_a_line_feed_ends_a_line(space: str) -> None:
    """Everything else may stand in the name of a function."""
    name = f"a{space}TID 2:{space}#0 0x1 b"
    assert eu_stack.parse(f"TID 1:\n#0  0x0000000000000001 {name}\n") == {
        1: [Frame(name, address=1)]
    }
    name = f"a{space}Thread 2 (LWP 2):{space}#0 b"
    assert gdb.parse(f"Thread 1 (LWP 1):\n#0  0x01 in {name} ()\n") == {1: [Frame(name, address=1)]}


def test_pystack() -> None:
    assert pystack.parse(PYSTACK) == {
        28504: [
            Frame("<module>", "/srv/a, line 1, in b.py:34"),
            Frame("_bootstrap", "/usr/lib/python3.11/threading.py:995"),
        ],
        28507: [Frame("f", "x.py:1")],
    }


DELVE = """\
Type 'help' for list of commands.
* Goroutine 1 - User: /x/syscall_linux.go:38 syscall.RawSyscall6 (0x402c33) (thread 3427) [chan receive 2]
\t 0  0x0000000000402c4e in runtime/internal/syscall.Syscall6
\t     at /x/asm_linux_amd64.s:36
\t10  0x0000000000402c33 in main.(*T).run
\t     at /x/main.go:7
  Goroutine 2 - User: /x/proc.go:364 runtime.gopark (0x435336) [force gc (idle)]
\t0  0x0000000000435336 in runtime.gopark
\t    at /x/proc.go:364
  Goroutine 3 - User: /x/main.go:57 main.inner (0x4a7599) (thread 3424)
[3 goroutines]
"""  # noqa: E501


def test_delve() -> None:
    assert delve.parse(9, DELVE) == [
        Thread(
            9,
            3427,
            "chan receive",
            {
                GO: [
                    Frame(
                        "runtime/internal/syscall.Syscall6",
                        "/x/asm_linux_amd64.s:36",
                        address=0x402C4E,
                    ),
                    Frame("main.(*T).run", "/x/main.go:7", address=0x402C33),
                ]
            },
        ),
        Thread(
            9,
            0,
            "force gc (idle)",
            {GO: [Frame("runtime.gopark", "/x/proc.go:364", address=0x435336)]},
        ),
        Thread(9, 3424, "running", {GO: []}),
    ]


JHSDB = """\
Attaching to core /proc/1/fd/4 from executable /usr/bin/java, please wait...
Deadlock Detection:

"main" #1 prio=5 tid=0x00007f0e10018090 nid=0xd62 runnable [0x00007f0e17dfd000]
   java.lang.Thread.State: RUNNABLE
   JavaThread state: _thread_in_native
 - java.io.FileInputStream.readBytes(byte[], int, int) @bci=0 (Interpreted frame)
 - Monitors.main(java.lang.String[]) @bci=173, line=55, pc=0x7f00, Method*=0x7f01 (Compiled frame)
 - A$$Lambda$228+0x00007f1bc0150208.run() @bci=4 (Interpreted frame)
 - A$$Lambda/0x00007f1bc0150208.run() @bci=4 (Interpreted frame)
\t- locked <0x00000000fc037c70> (a java.io.BufferedInputStream)


"a "quoted" name" #12 daemon prio=10 tid=0x00007f0e10094500 nid=3436 waiting on condition [0x00]
   java.lang.Thread.State: RUNNABLE
"""


def test_jhsdb() -> None:
    assert jhsdb.parse(JHSDB) == {
        0xD62: jhsdb.JavaThread(
            "main",
            [
                Frame("java.io.FileInputStream.readBytes"),
                Frame("Monitors.main", "line 55"),
                Frame("A$$Lambda.run"),
                Frame("A$$Lambda.run"),
            ],
        ),
        3436: jhsdb.JavaThread('a "quoted" name', []),
    }


PARSERS = {
    "eu-stack": (eu_stack.parse, EU_STACK),
    "gdb": (gdb.parse, GDB),
    "pystack": (pystack.parse, PYSTACK),
    "delve": (lambda text: delve.parse(1, text), DELVE),
    "jhsdb": (jhsdb.parse, JHSDB),
}


HOSTILE = {
    "goroutine": ("* Goroutine 1 - ", " [", "..."),
    "waiting goroutine": ("  Goroutine 1 - ", " (thread 1) [", "]"),
    "frame of go": ("  0  0x1 in ", " at :1", "x"),
    "source of go": ("     at ", ":1", "x"),
    "thread of Java": ('"', '" #1 nid=1', "x"),
    "other thread of Java": ('"" #1 ', "nid=", "x"),
    "frame of Java": (" - f(", ") @bci=", "x"),
    "class of Java": (" - ", "$$Lambda$1+", "(x) @bci=1"),
    "thread of gdb": ("Thread 1 (", "LWP 1)", "x"),
    "frame of gdb": ("#0 ", " at :1 from ", "x"),
    "frame": ("#0 0x1", " - ", ""),
    "source": ("    ", "a:1:1", "x"),
    "frame of Python": ('    (Python) File "', '", line 1, in ', ""),
}
"""The beginning of a line, what a program may choose, many times, and the end."""


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", PARSERS)
def test_a_line_takes_a_time_that_its_length_bounds(name: str, kind: str) -> None:
    """The longest lines, as many as are taken.  With a square of the length they take hours."""
    parse, _ = PARSERS[name]
    first, often, last = HOSTILE[kind]
    line = (first + often * (program.LONGEST_LINE // len(often)))[: program.LONGEST_LINE] + last
    parse("\n".join([line] * (program.MOST_OUTPUT // 16 // program.LONGEST_LINE)))


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_any_output_is_read(name: str, data: st.DataObject) -> None:
    """A reader writes what a process says of itself."""
    parse, sample = PARSERS[name]
    lines = st.sampled_from(sample.splitlines())
    cut = st.builds(lambda line, at: line[:at], lines, st.integers(0, 80))
    words = data.draw(st.lists(st.one_of(lines, cut, st.text(max_size=30)), max_size=12))
    parse("\n".join(words))


functions = st.sampled_from(["read", "poll", "inner", ""])
stacks = st.lists(functions, min_size=1, max_size=3)


@given(st.lists(st.tuples(stacks, st.integers(0, 20))), st.randoms(use_true_random=False))
def test_equal_stacks_are_one_entry_in_any_order(
    rows: list[tuple[list[str], int]], random: object
) -> None:
    threads = [
        Thread(number, number, f"t-{name}", {NATIVE: [Frame(function) for function in stack]})
        for number, (stack, name) in enumerate(rows)
    ]
    folds = fold(threads, Style())
    assert sorted(thread.tid for each in folds for thread in each.threads) == [*range(len(threads))]
    assert len({each.lines for each in folds}) == len(folds)
    counts = [len(each.threads) for each in folds]
    assert counts == sorted(counts, reverse=True)
    for each in folds:
        for thread in each.threads:
            assert [*thread.stacks[NATIVE]] == [*each.stacks[NATIVE]]
    assert [*draw(Report(["p"], threads, [], Style()))] == [
        *draw(Report(["p"], threads[::-1], [], Style()))
    ]


def test_a_frame_without_a_name_has_its_place_in_the_file() -> None:
    known = Frame("read", "read.c:26", "libc.so.6", 0x10, address=0x7F0000001010)
    assert text(known, Style()) == "read  read.c:26"
    assert text(known, Style(lines=False)) == "read  libc.so.6"
    assert text(known, Style(addresses=True)) == "0x00007f0000001010 read  read.c:26"
    assert text(Frame(module="libx.so", offset=0x10), Style()) == "libx.so+0x10"
    assert text(Frame(module="libx.so"), Style()) == "??  libx.so"
    assert text(Frame(address=1), Style()) == "??"


def report(**options: bool) -> Report:
    threads = [
        Thread(
            7,
            70 + number,
            f"worker-{number}",
            {PYTHON: [Frame("run", "a.py:1")], NATIVE: [Frame("poll", address=number)]},
        )
        for number in (9, 10, 2)
    ]
    idle = Thread(8, 80, "idle\n", {NATIVE: [Frame(module="x", offset=1, build_id="ab")]})
    goroutines = [Thread(8, 0, "select", {GO: [Frame("main.main", "m.go:1")]})]
    style = Style(addresses=options.get("addresses", False))
    return Report(["app", "app"], [idle, *threads], goroutines, style, options.get("ids", False))


TEXT = """\
4 threads of 2 processes: app (2)

3 threads: worker-2, worker-9, worker-10
  Python
  #0  run  a.py:1
  native
  #0  poll

1 thread: idle\\n
  #0  x+0x1

1 goroutine

1 goroutine: select
  #0  main.main  m.go:1
"""


def test_text_has_no_ids_and_no_addresses() -> None:
    assert "\n".join(draw(report())) + "\n" == TEXT


def test_ids_and_addresses_are_shown_if_that_is_asked() -> None:
    shown = "\n".join(draw(report(ids=True)))
    assert re.findall(r"^  ids (.*)$", shown, re.MULTILINE) == ["7/79, 7/80, 7/72", "8/80", "8/0"]
    # Their addresses differ, so that they are no longer equal.
    assert [each["count"] for each in as_json(report(addresses=True))["stacks"]] == [1, 1, 1, 1]


def test_json_says_what_is_known_of_a_frame() -> None:
    found = as_json(report(ids=True))
    assert (found["processes"], found["threads"]) == ({"app": 2}, 4)
    first, second = found["stacks"]
    assert (first["count"], first["names"]) == (3, {"worker-2": 1, "worker-9": 1, "worker-10": 1})
    assert first["ids"][0] == {"pid": 7, "tid": 79, "name": "worker-9"}
    assert first["frames"] == {
        "python": [{"function": "run", "source": "a.py:1"}],
        "native": [{"function": "poll"}],
    }
    assert second["frames"] == {"native": [{"module": "x", "offset": 1, "build_id": "ab"}]}
    assert "ids" not in as_json(report())["stacks"][0]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([b"/usr/bin/python3.11"], [PYTHON]),
        ([b"/opt/app/uwsgi", b"/usr/lib/libpython3.13t.so.1.0"], [PYTHON]),
        ([b"/usr/bin/python3 (deleted)"], [PYTHON]),
        ([b"/usr/lib/jvm/java-17/lib/server/libjvm.so", b"/usr/bin/java"], [JAVA]),
        ([b"/usr/bin/python3-config", b"/usr/lib/python3.11/lib-dynload/_json.so"], []),
        ([b"/usr/bin/java", b"/srv/libjvm.so.txt"], []),
    ],
)
def test_languages_are_known_by_the_mapped_files(paths: list[bytes], expected: list[str]) -> None:
    assert languages(paths, is_of_go=False) == expected
    assert (
        languages(paths, is_of_go=True) == [*expected[:1], GO][:: 1 if expected != [JAVA] else -1]
    )


@pytest.mark.parametrize(
    ("installed", "wanted", "is_for_gdb", "expected"),
    [
        ("eu-stack gdb", "auto", False, "eu-stack"),
        ("eu-stack gdb", "auto", True, "gdb"),
        ("eu-stack gdb", "eu-stack", True, "eu-stack"),
        ("eu-stack gdb", "gdb", False, "gdb"),
        ("eu-stack", "auto", True, "eu-stack"),
        ("gdb", "auto", False, "gdb"),
        ("gdb", "eu-stack", True, ""),
        ("", "auto", True, ""),
    ],
)
def test_the_reader_of_native_frames_is_one_that_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    installed: str,
    wanted: str,
    is_for_gdb: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(program, "find", lambda name: name if name in installed.split() else "")
    assert native_reader(wanted, is_for_gdb) == expected


def note(owner: bytes, kind: int, desc: bytes) -> bytes:
    head = struct.pack("<III", len(owner), len(desc), kind)
    return head + b"".join(part + bytes(-len(part) % 4) for part in (owner, desc))


@given(
    st.lists(st.tuples(st.binary(max_size=9), st.integers(0, 9), st.binary(max_size=9))),
    st.integers(0, 11),
)
def test_every_whole_note_is_found(rows: list[tuple[bytes, int, bytes]], cut: int) -> None:
    whole = b"".join(note(*row) for row in rows)
    assert [tuple(each) for each in file_notes.notes(whole)] == rows
    more = whole + note(b"GNU\0", 3, b"12345678")[:cut]
    assert [tuple(each) for each in file_notes.notes(more)] == rows


def test_who_built_a_program() -> None:
    data = note(b"GNU\0", 1, b"abi ") + note(b"Go\0\0", 4, b"x") + note(b"GNU\0", 3, b"id")
    assert file_notes.build_id(file_notes.notes(data)) == b"id"
    assert file_notes.is_of_go(file_notes.notes(data))
    assert file_notes.build_id(file_notes.notes(b"")) == b""
    assert not file_notes.is_of_go(file_notes.notes(note(b"GNU\0", 4, b"Go\0\0")))
    for beginning in (b"", b"\x7fELF", b"\x7fELF\2\1" + bytes(10), bytes(4096)):
        assert file_notes.note_ranges(beginning) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f () at /a/b.c:12", ("f", "/a/b.c:12", "")),
        ("f (a, b) from /lib/libx.so", ("f", "", "libx.so")),
        ("f(int) (a=...) at x.cc:1", ("f(int)", "x.cc:1", "")),
        ("f() at", ("f() at", "", "")),
        ("g (x (y)) from /l at 1", ("g (x (y))", "", "l at 1")),
        ("h at /a at b/c.c:3", ("h", "/a at b/c.c:3", "")),
    ],
)
def test_a_line_of_gdb_is_divided(text: str, expected: tuple[str, str, str]) -> None:
    found = gdb.parse(f"Thread 1 (LWP 7):\n#0  0x10 in {text}\n")
    (frame,) = found[7]
    assert (frame.function, frame.source, frame.module) == expected


# With one expression for all of a line each of these took a third of a second.
@pytest.mark.timeout(60)
def test_long_names_are_read_quickly() -> None:
    line = "#0  0x10 in f" + 4000 * " at " + ":1x (LWP"
    found = gdb.parse("Thread 1 (LWP 7):\n" + 1000 * f"{line}\n")
    assert len(found[7]) == 1000


@pytest.mark.parametrize("offset", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_notes_where_no_file_has_bytes_are_not_read(offset: int) -> None:
    header = struct.pack("<IIQQQQQQ", 4, 4, offset, 0, 0, 48, 0, 4)
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    beginning = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    assert file_notes.note_ranges(beginning + header) == []


def test_overlapping_notes_of_a_file_are_read_once() -> None:
    note = struct.pack("<III", 4, 4, 3) + b"GNU\0" + b"abcd"
    header = struct.pack("<IIQQQQQQ", 4, 4, 64, 0, 0, 48 << 10, 0, 4)
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    beginning = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 20, 0, 0, 0)
    ranges = file_notes.note_ranges(beginning + 20 * header)
    assert sum(size for _, size in ranges) == file_notes.MOST_NOTES
    assert len([*file_notes.notes(3000 * note)]) <= 256

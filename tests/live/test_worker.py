"""Shared by a server and a worker: messages with files, a header, a page."""

import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.arch import machine_of
from gcorefs.elfcore.header_store import Pieces
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.segments import Loads
from gcorefs.kernel.open_file import OpenFile
from gcorefs.policy import Policy
from gcorefs.process.access import Opener
from gcorefs.process.admission import find
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.worker import messages as say
from gcorefs.worker import zygote
from gcorefs.worker.channel import FILE_SPACE, LONGEST, PACKET_SPACE, Channel, Packet, unpack
from gcorefs.worker.header import HeaderWriter, SharedHeader
from gcorefs.worker.page import SharedProgress, new_page
from tests.conftest import Target
from tests.live.accounts import assert_free

OPENER = Opener(pid=os.getpid(), uid=0, gid=0, groups=(), capabilities=(1 << 41) - 1)
LONG = 10 << 20
"""Bytes.  Longer than the buffer of any socket."""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (pair := socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))[0], pair[1]:
        yield pair


def temporary(content: bytes) -> OpenFile:
    file = OpenFile(os.memfd_create("test"))
    os.write(file.number, content)
    return file


def test_a_file_arrives_as_a_file(pair: tuple[socket.socket, socket.socket]) -> None:
    first, second = temporary(b"first"), temporary(b"second")
    Channel(pair[0]).send([first, {"x": second}, first])
    one, named, again = Channel(pair[1]).receive()
    assert one is again
    assert {file.number for file in (one, named["x"])}.isdisjoint({first.number, second.number})
    assert os.pread(one.number, 100, 0) == b"first"
    assert os.pread(named["x"].number, 100, 0) == b"second"
    assert not os.get_inheritable(one.number)


def test_a_message_waits_for_room_however_short_the_wait_for_another_was(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A worker waits for a message until max_stop ends, and sends from other threads meanwhile."""
    ours, theirs = pair
    sender = Channel(theirs)
    with pytest.raises(TimeoutError):
        sender.receive(0.001)
    with pytest.raises(OSError):  # EAGAIN, or a time-out of the socket
        while True:
            theirs.send(b"-", socket.MSG_DONTWAIT)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(sender.send, "the message")
        assert not wait([sending], 0.1).done  # a time-out would come much earlier
        while (data := ours.recv(PACKET_SPACE)) == b"-":
            pass
        assert unpack(data, ()) == "the message"
        assert sending.result() is None


def test_a_wait_may_take_years(pair: tuple[socket.socket, socket.socket]) -> None:
    """max_stop= takes a billion seconds.  For poll(2) that is too long."""
    Channel(pair[0]).send("the message")
    assert Channel(pair[1]).receive(1e9) == "the message"


def test_a_long_message_arrives_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    text = os.urandom(LONG)
    Channel(pair[0]).send((text, temporary(b"file")))
    received, file = Channel(pair[1]).receive()
    assert received == text
    assert os.pread(file.number, 100, 0) == b"file"


@pytest.mark.parametrize("size", [LONGEST - 64, LONGEST, LONGEST + 1])
def test_a_message_of_any_length_is_one_packet(
    size: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    packet = Packet(bytes(size))
    assert len(packet.data) < PACKET_SPACE
    pair[0].sendmsg([packet.data], packet.ancillary)
    data, ancillary, *_ = pair[1].recvmsg(PACKET_SPACE, FILE_SPACE)
    assert unpack(data, ancillary) == bytes(size)


def test_no_descriptor_is_left(pair: tuple[socket.socket, socket.socket]) -> None:
    before = os.listdir("/proc/self/fd")
    Channel(pair[0]).send((bytes(LONG), temporary(b"")))
    assert Channel(pair[1]).receive()
    assert os.listdir("/proc/self/fd") == before


def test_the_end_of_a_conversation_is_none(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert Channel(pair[1]).receive() is None


def test_a_channel_waits_for_so_long(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        Channel(pair[1]).receive(0.001)
    Channel(pair[0]).send(1)
    assert Channel(pair[1]).receive() == 1


# The header.


def layout_of(notes: Pieces) -> Layout:
    machine = machine_of(False)
    assert machine is not None
    return Layout(machine, Loads(), notes)


def test_a_header_is_the_same_on_the_other_side() -> None:
    layout = layout_of(Pieces([os.urandom(3 << 20)]))
    writer = HeaderWriter(layout)
    writer.write(layout.memory_offset)
    assert writer.is_complete
    header = SharedHeader(writer.file, layout.memory_offset, writer.written)
    assert bytes(header) == layout.header
    buffer = memoryview(bytearray(100))
    header.read_into(12345, buffer)
    assert bytes(buffer) == layout.header[12345:12445]


def test_a_reader_of_a_header_waits_for_its_part_alone() -> None:
    layout = layout_of(Pieces([os.urandom(3 << 20)]))
    writer = HeaderWriter(layout)
    writer.write(layout.notes_offset)
    header = SharedHeader(writer.file, layout.memory_offset, writer.written)
    beginning = memoryview(bytearray(layout.notes_offset))
    header.read_into(0, beginning)
    assert bytes(beginning) == layout.header[: layout.notes_offset]
    rest = memoryview(bytearray(layout.memory_offset - layout.notes_offset))
    reader = threading.Thread(target=header.read_into, args=(layout.notes_offset, rest))
    reader.start()
    while not writer.is_complete:
        assert reader.is_alive()
        assert not header.made.done()
        stored = writer.write_row()
        header.grow(writer.written, stored)
    reader.join()
    assert bytes(rest) == layout.header[layout.notes_offset :]
    assert header.made.result() is None
    assert bytes(header) == layout.header


@pytest.fixture(scope="module")
def in_rows() -> tuple[SharedHeader, bytes]:
    """A header that came in rows, and its bytes."""
    layout = layout_of(Pieces([random.Random(1).randbytes(5 << 19)]))
    writer = HeaderWriter(layout)
    writer.write(layout.notes_offset)
    header = SharedHeader(writer.file, layout.memory_offset, writer.written)
    while not writer.is_complete:
        stored = writer.write_row()
        header.grow(writer.written, stored)
    return header, layout.header


@settings(deadline=None)
@given(st.data())
def test_any_part_of_a_header_can_be_read(
    in_rows: tuple[SharedHeader, bytes], data: st.DataObject
) -> None:
    header, content = in_rows
    offset = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(1, len(content) - offset))
    buffer = memoryview(bytearray(length))
    header.read_into(offset, buffer)
    assert buffer == content[offset : offset + length]


def test_the_notes_of_many_threads_take_little_memory() -> None:
    layout = layout_of(Pieces([os.urandom(100) + bytes(3996)] * 1000))
    writer = HeaderWriter(layout)
    writer.write(layout.notes_offset)
    while not writer.is_complete:
        writer.write_row()
    assert os.fstat(writer.file.number).st_size < layout.memory_offset // 10


def test_the_part_of_a_header_that_never_comes_is_an_error() -> None:
    layout = layout_of(Pieces([bytes(100)]))
    writer = HeaderWriter(layout)
    writer.write(layout.notes_offset)
    header = SharedHeader(writer.file, layout.memory_offset, writer.written)
    header.fail(ProcessError(Reason.LET_GO, 1))
    header.fail(ProcessError(Reason.DIED, 1))  # the first reason counts
    header.read_into(0, memoryview(bytearray(layout.notes_offset)))
    for read in (
        lambda: header.read_into(layout.notes_offset, memoryview(bytearray(1))),
        header.made.result,
        lambda: bytes(header),
    ):
        with pytest.raises(ProcessError) as caught:
            read()
        assert caught.value.reason is Reason.LET_GO


def test_nobody_can_shorten_a_header() -> None:
    layout = layout_of(Pieces())
    writer = HeaderWriter(layout)
    writer.write(layout.memory_offset)
    with pytest.raises(PermissionError):
        os.ftruncate(writer.file.number, 0)


# The page.


def test_what_a_worker_tells_is_seen_at_once() -> None:
    page = new_page()
    worker, server = SharedProgress(page), SharedProgress(page)
    assert (server.stopped_at, server.released_at) == (0.0, 0.0)
    assert not (server.is_over or server.is_dead or server.is_tracer_gone)
    worker.stopped_at, worker.released_at = 1.5, 2.5
    assert (server.stopped_at, server.released_at) == (1.5, 2.5)
    worker.die()
    assert (server.is_dead, server.is_over) == (True, False)
    worker.end()
    assert server.is_over


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_tracer_that_is_killed_is_seen_to_be_gone(number: signal.Signals) -> None:
    """Also if it was one thread among others, and not the first one."""
    page = new_page()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        progress = SharedProgress(page)

        def own() -> None:
            progress.own()
            os.write(writing, b"1")
            signal.pause()

        threading.Thread(target=own).start()
        threading.Event().wait()
    os.read(reading, 1)
    progress = SharedProgress(page)
    assert not progress.is_tracer_gone
    os.kill(pid, number)
    os.waitpid(pid, 0)
    assert progress.is_tracer_gone
    os.close(reading)
    os.close(writing)


def test_a_tracer_that_has_ended_well_is_not_gone() -> None:
    progress = SharedProgress(new_page())

    def trace() -> None:
        progress.own()
        progress.end()
        progress.disown()

    thread = threading.Thread(target=trace)
    thread.start()
    thread.join()
    assert (progress.is_over, progress.is_tracer_gone) == (True, False)


# The zygote.


def test_a_worker_says_who_it_is_and_ends_with_its_conversation() -> None:
    ours = zygote.Zygote()
    with ours.worker() as sock:
        hello = Channel(sock).receive(60)
        assert isinstance(hello, say.Hello)
        with open(f"/proc/{hello.pid}/comm", encoding="ascii") as comm:
            assert comm.read() == "gcorefs-worker\n"
        pidfd = os.pidfd_open(hello.pid)
    poll = select.poll()
    poll.register(pidfd)
    assert poll.poll(60_000)
    os.close(pidfd)
    ours.close()


def test_an_answer_that_is_late_is_for_no_other_core(spawn: Callable[..., Target]) -> None:
    """It comes when its core is abandoned, and the worker asks about the next one."""
    target = spawn("threads", 1)
    policy = Policy(hold="copy")
    ours = zygote.Zygote()
    with ours.worker() as sock:
        channel = Channel(sock)
        assert isinstance(channel.receive(60), say.Hello)
        process, page = find(target.pid), new_page()
        channel.send(say.Take(1, process, OPENER, policy, 0.0, page, frozenset()))
        assert isinstance(channel.receive(60), say.Taken)
        channel.send(say.EndChild(7, may_reap=True))  # late as well: of another stop
        channel.send(say.MakeCore(2, policy, 0.0, is_copy=True))
        assert isinstance(channel.receive(60), say.Fit)
        channel.send(say.Held(9, {"hold": "wrong"}))
        channel.send(say.Held(9, None))
        channel.send(say.Held(2, {"hold": "copy", "held": "copy"}))
        made = channel.receive(60)
        assert isinstance(made, say.Made)
        policy_told = made.plan.provenance.facts()["policy"]
        assert (policy_told["hold"], policy_told["held"]) == ("copy", "copy")
        channel.send(say.Release(may_be_late=False))
        assert isinstance(channel.receive(60), say.Released)
    ours.close()
    assert_free(target.pid)


FILES = """
import os
from gcorefs.worker.channel import Channel
from gcorefs.worker.zygote import Zygote

with open("/dev/zero", "rb") as secret:
    os.set_inheritable(secret.fileno(), True)
    zygote = Zygote()
with zygote.worker() as sock:
    folder = f"/proc/{Channel(sock).receive(60).pid}/fd"
    print(*sorted(os.readlink(f"{folder}/{name}").split(":")[0] for name in os.listdir(folder)))
"""


def test_nothing_of_the_server_is_open_in_a_worker() -> None:
    """In a process of its own, which has what a server has."""
    done = subprocess.run(
        [sys.executable, "-c", FILES], stdout=subprocess.PIPE, timeout=60, check=True
    )
    assert done.stdout.split() == [b"/dev/null"] * 3 + [b"socket"]

"""The process that all workers are forked from.

The server forks it before it has a second thread, a mount or an event loop, and the zygote does
nothing but fork workers.  So a worker starts within a millisecond.  It has all modules imported,
nothing else, and shares its memory with the zygote at first.

The interpreter writes to each object that it looks at, to count references, and the kernel copies
the page.  What a stop uses lies scattered among what it does not use.  So a worker that has only
said Hello has 1.7 MiB of its own, and one that holds a small process has 6.8 of 24 MiB, in 1,770
pages of which 0.3 MiB are new: in 2.2 MiB no byte differs from the zygote's any more, and in 2.4
MiB at most three words of a page.  CPython 3.11 cannot keep these objects together.  What was
tried:

- ten stops before the first fork, so that all code is specialized: 0.25 MiB less, but the first
  open after the mount waits for 0.2 s;
- no free room between the objects of the zygote when it forks: 0.25 MiB less;
- a zygote of its own interpreter, which imports only what a worker needs: 0.8 MiB less for each
  worker, and 12 MiB more, because the zygote shares nothing with the server then;
- one arena for malloc(3) (M_ARENA_MAX), and malloc_trim(3) during the hold: nothing.
"""

import contextlib
import gc
import os
import select
import signal
import socket
from typing import NoReturn

from gcorefs.errors import GcorefsError
from gcorefs.kernel import ending_signals
from gcorefs.process.admission import find
from gcorefs.process.mark import mark
from gcorefs.process.threads import await_alone, name_task
from gcorefs.sources import bpf_choice
from gcorefs.stopped import Stop
from gcorefs.worker import service
from gcorefs.worker.channel import Channel

_STANDARD = range(3)
_REQUEST = b"w"

_WORST_SCORE = 1000  # include/uapi/linux/oom.h, OOM_SCORE_ADJ_MAX
_SCORE_AHEAD = 500
"""As if it had half of the memory more, that of the machine or of the group that is out of it."""


class Zygote:
    """The zygote, for the server."""

    def __init__(self) -> None:
        """Fork the zygote.  EAGAIN, ENOMEM, EMFILE.

        The caller has one thread.  The settings of its interpreter, and its source of mappings
        (sources/bpf_choice.py), are those of all workers.
        """
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            _be_zygote(theirs)
        theirs.close()
        self._requests.setblocking(False)

    def worker(self) -> socket.socket:
        """The server's end of a conversation with a new worker.

        EMFILE; EPIPE: the zygote is gone; EAGAIN: it has not begun with earlier requests yet.

        If the zygote cannot fork, the conversation ends at once.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._requests, [_REQUEST], [theirs.fileno()], socket.MSG_NOSIGNAL)
        return ours

    def fileno(self) -> int:
        """The socket: it is writable when the zygote may be asked for a worker."""
        return self._requests.fileno()

    @property
    def is_gone(self) -> bool:
        """True if the zygote has ended: there will be no more workers."""
        poll = select.poll()
        poll.register(self._requests, 0)
        return bool(poll.poll(0))  # POLLHUP

    def close(self) -> None:
        """Let the zygote end."""
        self._requests.close()


def _be_zygote(requests: socket.socket) -> NoReturn:
    try:
        _stand_alone(requests)
        _warm_up()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a worker (wait(2))
        mark()
        gc.collect()
        gc.freeze()
        gc.disable()  # a worker collects between two stops (service.py)
        _fork_on_request(requests)
    finally:
        os._exit(0)


def _warm_up() -> None:
    """Carry out one stop, so that all workers share what is computed once and kept.

    This halves the time of the first stop of a worker.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)  # until the zygote closes its end
        os._exit(0)
    os.close(reading)
    with (
        contextlib.suppress(OSError, GcorefsError),  # the opener of a file gets the error
        contextlib.closing(Stop(find(pid))) as stop,
    ):
        stop.take()
        stop.core()
    os.close(writing)
    os.waitpid(pid, 0)
    await_alone()  # a thread of the stop ends


def _stand_alone(requests: socket.socket) -> None:
    """Keep no file and no signal handler of the server, except `requests` and what the source of
    mappings needs."""
    name_task(b"gcorefs-zygote")
    # A session of its own: the suspend key of a terminal must not stop a process that holds others.
    with contextlib.suppress(OSError):
        os.setsid()
    # A terminal or a service manager sends these to every process of a group.  They end the server,
    # and a worker ends after the server.
    ending_signals.ignore_all()
    null = os.open(os.devnull, os.O_RDWR)
    for number in _STANDARD:
        if number != requests.fileno():
            os.dup2(null, number)
    kept = {*_STANDARD, requests.fileno(), *bpf_choice.in_use().descriptors}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # listdir() has closed its own by now
                os.close(int(name))


def _fork_on_request(requests: socket.socket) -> None:
    while True:
        data, files, *_ = socket.recv_fds(requests, len(_REQUEST), 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return  # the server is gone
        is_worker = False
        with contextlib.suppress(OSError):
            is_worker = os.fork() == 0
        if is_worker:
            requests.close()
            _be_worker(files[0])
        for number in files:
            os.close(number)


def _go_before_the_server() -> None:
    """When memory is short, have the kernel kill a worker, and with it one stop, before it kills
    the server, and with it the mount (proc_pid_oom_score_adj(5)).  Any user may raise the score."""
    name = "/proc/self/oom_score_adj"
    with contextlib.suppress(OSError), open(name, "r+b", buffering=0) as file:
        score = int(file.read())
        file.write(b"%d" % min(_WORST_SCORE, score + _SCORE_AHEAD))


def _be_worker(number: int) -> NoReturn:
    try:
        name_task(b"gcorefs-worker")
        _go_before_the_server()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with socket.socket(fileno=number) as sock:
            service.serve(Channel(sock))
    finally:
        os._exit(0)  # threads may hang

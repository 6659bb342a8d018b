"""The process that all workers are forked from.

The server forks it before it has a second thread, a mount or an event loop, and the zygote does
nothing but fork workers.  So a worker starts within a millisecond.  It has all modules imported,
nothing else, and shares nearly all of its memory with the zygote.
"""

import contextlib
import gc
import os
import signal
import socket
import threading
from typing import NoReturn

from gcorefs.errors import GcorefsError
from gcorefs.kernel import ending_signals
from gcorefs.kernel.libc import quick
from gcorefs.process.admission import find
from gcorefs.process.mark import mark
from gcorefs.sources import mappings
from gcorefs.stopped import Stop
from gcorefs.worker import service
from gcorefs.worker.channel import Channel

_PR_SET_NAME = 15
_STANDARD = range(3)
_REQUEST = b"w"


class Zygote:
    """The zygote, for the server."""

    def __init__(self) -> None:
        """Fork the zygote.  EAGAIN, ENOMEM, EMFILE.

        The caller has one thread.  The settings of its interpreter, and its source of mappings
        (sources/mappings.py), are those of all workers.
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
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()


def _stand_alone(requests: socket.socket) -> None:
    """Keep no file and no signal handler of the server, except `requests` and what the source of
    mappings needs."""
    quick["prctl"](_PR_SET_NAME, b"gcorefs-zygote", 0, 0, 0)
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
    kept = {*_STANDARD, requests.fileno(), *mappings.in_use().descriptors}
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


def _be_worker(number: int) -> NoReturn:
    try:
        quick["prctl"](_PR_SET_NAME, b"gcorefs-worker", 0, 0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with socket.socket(fileno=number) as sock:
            service.serve(Channel(sock))
    finally:
        os._exit(0)  # threads may hang

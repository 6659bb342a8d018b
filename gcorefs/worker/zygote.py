"""The process that all workers are forked from.

It is forked from the server before that has a second thread, a mount or an event loop, and never
does anything else.  So a worker begins with all modules imported and nothing else, within a
millisecond, and nearly all of its memory is shared with the zygote.
"""

import contextlib
import gc
import os
import signal
import socket
import threading
from typing import NoReturn

from gcorefs.errors import GcorefsError
from gcorefs.kernel.libc import quick
from gcorefs.process.admission import find
from gcorefs.process.mark import mark
from gcorefs.stopped import Stop
from gcorefs.worker import service
from gcorefs.worker.channel import Channel

_PR_SET_NAME = 15
_STANDARD = range(3)
_REQUEST = b"w"

_END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that a terminal or a service manager sends to every process of a group.  The server ends
on them; a worker ends when the server has ended."""


class Zygote:
    """The server's end of it."""

    def __init__(self) -> None:
        """Fork it.  The caller has one thread, and has set the interpreter as it is to be in all
        workers.  EAGAIN, ENOMEM, EMFILE."""
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            _be_zygote(theirs)
        theirs.close()
        self._requests.setblocking(False)

    def worker(self) -> socket.socket:
        """The server's end of a conversation with a new worker.

        EMFILE; EPIPE: the zygote is gone; EAGAIN: it does not answer.

        If the zygote cannot fork, the conversation ends at once.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._requests, [_REQUEST], [theirs.fileno()], socket.MSG_NOSIGNAL)
        return ours

    def close(self) -> None:
        """Let it end."""
        self._requests.close()


def _be_zygote(requests: socket.socket) -> NoReturn:
    try:
        _stand_alone(requests)
        _warm_up()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no worker is waited for
        mark()
        gc.collect()
        gc.freeze()
        gc.disable()  # a worker collects between two stops (service.py)
        _fork_on_request(requests)
    finally:
        os._exit(0)


def _warm_up() -> None:
    """Carry out one stop: what is computed once and kept, a worker has from its beginning.

    That halves the time of its first stop.
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
    """Keep nothing of the server's but `requests`."""
    quick["prctl"](_PR_SET_NAME, b"gcorefs-zygote", 0, 0, 0)
    # A group of its own, so that the stop key of a terminal does not stop those who hold others.
    with contextlib.suppress(OSError):
        os.setsid()
    for each in _END_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for number in _STANDARD:
        if number != requests.fileno():
            os.dup2(null, number)
    kept = {*_STANDARD, requests.fileno()}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # that of the list itself
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

"""The workers of a mount, and the event loop's end of the conversation with each.

A worker carries out one stop at a time (worker/).  After the stop it stays with the process while
it waits for something: for late threads, which the next stop of the process takes over, or for the
answer to a question.  When it waits for nothing it is idle, and carries out the next stop of any
process.  That saves time: it has its own copies of the pages that a stop writes to, and the kernel
need not copy them from the zygote again.
"""

import contextlib
import errno
import os
import socket
from collections import Counter
from itertools import chain
from typing import Protocol

import trio

from gcorefs import tuning
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount.log import logger
from gcorefs.worker import messages as say
from gcorefs.worker.channel import FILE_SPACE, PACKET_SPACE, Packet, unpack
from gcorefs.worker.zygote import Zygote

_MOST_IDLE = 2
"""The most idle workers.  Each takes some megabytes."""


class NoAnswer(Exception):
    """The zygote does not answer."""


class Carried(Protocol):
    """A stop that a worker carries out."""

    process: Process
    uid: int

    def hear(self, message: object) -> None:
        """Take a message of the worker."""

    def part(self) -> None:
        """The stop is over, and its worker answers nothing about it any more."""

    def lose(self, cause: OSError | None) -> None:
        """The worker has ended without a message, or `cause` kept us from hearing it."""


class Link:
    """The conversation with one worker."""

    def __init__(self, sock: socket.socket) -> None:
        self.pid = 0
        """The pid of the worker; 0 before it has said Hello."""
        self.carried: Carried | None = None
        """The stop that the worker carries out, or with which it stays."""
        self.silent: frozenset[str] = frozenset()
        """Sources of pages that have not answered the worker."""
        self.keeps_child = False
        """True from the end of a stop whose memory a child keeps.  The worker makes no other."""
        self.waits = False
        """True while the worker waits after a stop: for late threads, for answers, or for a request
        that hangs."""
        self._socket = sock
        sock.setblocking(False)

    def say(self, message: object) -> None:
        """Send a message, without a wait: a worker always listens.  If the worker has ended, the
        message is lost.

        EMFILE, ETOOMANYREFS: only for a message with files (unix(7)).
        """
        if self._socket.fileno() < 0:  # closed by `listen`
            return
        packet = Packet(message)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendmsg([packet.data], packet.ancillary, socket.MSG_NOSIGNAL)

    async def listen(self) -> None:
        """Pass each message to the stop.  Returns when the worker has ended.

        EMFILE: we could not receive the files of a message.
        """
        with trio.socket.from_stdlib_socket(self._socket) as sock:
            while (message := await _received(sock)) is not None:
                if isinstance(message, say.Hello):
                    self.pid = message.pid
                elif self.carried is not None:
                    self.carried.hear(message)

    def end(self) -> None:
        """End the conversation.  The worker ends when no thread is late any more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


async def _received(sock: trio.socket.SocketType) -> object:
    """The next message; None at the end of the conversation.  EMFILE."""
    try:
        data, ancillary, flags, _ = await sock.recvmsg(
            PACKET_SPACE, FILE_SPACE, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None
    if flags & socket.MSG_CTRUNC:  # net/core/scm.c, scm_detach_fds: no descriptor is free
        unpack(b"", ancillary)  # closes those that came
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return unpack(data, ancillary)


class Crew:
    """All workers of one mount."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._nursery: trio.Nursery | None = None
        self._links: set[Link] = set()
        self._asking = trio.Lock()
        self._idle: list[Link] = []
        # A process may have several: one that looked at it, and one that stopped it.  One with late
        # threads comes first.
        self._staying: dict[Process, list[Link]] = {}
        self._waiting: Counter[int] = Counter()  # by user: the workers that stay and wait

    def start(self, nursery: trio.Nursery) -> None:
        """Listen to the workers in `nursery`, and have a first worker ready."""
        self._nursery = nursery
        self._idle.append(self._new_link())

    def __contains__(self, pid: object) -> bool:
        """True for the process of a worker.  For any thread."""
        return any(link.pid == pid for link in tuple(self._links))

    def silent(self) -> frozenset[str]:
        """The sources of pages that do not answer the workers that stay."""
        links = chain.from_iterable(self._staying.values())
        return frozenset[str]().union(*(link.silent for link in links))

    async def take(self, carried: Carried) -> Link:
        """A worker for a stop.  Waits while the zygote is busy.  EMFILE; EPIPE: the zygote is gone.

        NoAnswer: the zygote takes too long.
        """
        staying = self._staying.get(carried.process)
        if staying:
            link = staying[0]
            former = link.carried
            self._stop_staying(link)
            if former is not None:
                former.part()
        else:
            link = self._idle.pop() if self._idle else await self._further_link()
        link.carried = carried
        return link

    async def _further_link(self) -> Link:
        with trio.move_on_after(tuning.now().take_timeout):
            async with self._asking:  # one task at a time may wait for a socket
                while True:
                    try:
                        return self._new_link()
                    except BlockingIOError:  # many opens at one time
                        await trio.lowlevel.wait_writable(self._zygote)
        raise NoAnswer

    def dismiss(self, link: Link) -> None:
        """End a worker that could not be told of its stop."""
        link.carried = None
        link.end()

    def give_back(self, link: Link, released: say.Released) -> None:
        """A stop is over.  Its worker may still wait for something."""
        carried = link.carried
        assert carried is not None
        if released.has_child:
            link.keeps_child = True
            return
        link.silent = released.silent
        link.waits = bool(released.late or released.silent or released.is_busy)
        # A worker with late threads waits for them in any case.  So it stays, and counts.
        if link.waits and not released.late and not self.may_stay(carried):
            link.end()
            return
        staying = self._staying.setdefault(carried.process, [])
        staying.insert(0 if released.late else len(staying), link)
        self._waiting[carried.uid] += link.waits

    def may_stay(self, carried: Carried) -> bool:
        """True if the worker of this stop may wait for something after it."""
        return self._waiting[carried.uid] < tuning.now().most_waiting

    def rest(self, link: Link, may_go_on: bool) -> None:
        """A worker waits for nothing any more."""
        carried = link.carried
        if link.keeps_child:
            link.carried = None
            link.end()
            return
        if carried is None or link not in self._staying.get(carried.process, ()):
            return  # it carries out the next stop already
        self._stop_staying(link)
        if may_go_on and len(self._idle) < _MOST_IDLE:
            self._idle.append(link)
        else:
            link.end()

    def _stop_staying(self, link: Link) -> None:
        carried, link.carried = link.carried, None
        if carried is not None and link in (staying := self._staying.get(carried.process, [])):
            staying.remove(link)
            if not staying:
                del self._staying[carried.process]
            self._waiting[carried.uid] -= link.waits
            if not self._waiting[carried.uid]:
                del self._waiting[carried.uid]

    def _new_link(self) -> Link:
        assert self._nursery is not None
        link = Link(self._zygote.worker())
        self._links.add(link)
        self._nursery.start_soon(self._listen, link)
        return link

    async def _listen(self, link: Link) -> None:
        cause = None
        try:
            await link.listen()
        except OSError as error:
            cause = error
        except Exception:  # a surprise in one worker must not end the mount
            logger.exception("the conversation with worker %d ended", link.pid)
        finally:
            carried = link.carried
            self._links.discard(link)
            self._stop_staying(link)
            if link in self._idle:
                self._idle.remove(link)
            if carried is not None:
                carried.lose(cause)

"""A Python process at work: threads that use sockets, wait with time-outs, and check the results.

First line: {"pid": P}.  Answers each line on standard input with {"work": N, "errors": [...]}.
"""

import json
import os
import queue
import select
import socket
import sys
import threading
import zlib
from collections.abc import Callable

Turn = Callable[[], None]

errors: list[str] = []
work = [0] * 8


def checked(number: int, body: Turn) -> None:
    def run() -> None:
        try:
            for _ in iter(int, 1):
                body()
                work[number] += 1
        except BaseException as error:
            errors.append(repr(error))

    threading.Thread(target=run, daemon=True).start()


def echo(timeout: float | None) -> tuple[Turn, Turn]:
    """A pair of threads that send a block to each other and compare it."""
    near, far = socket.socketpair()
    near.settimeout(timeout)
    far.settimeout(timeout)
    block = os.urandom(60_000)

    def server() -> None:
        data = b""
        while len(data) < len(block):
            data += far.recv(65536)
        far.sendall(data)

    def client() -> None:
        near.sendall(block)
        data = b""
        while len(data) < len(block):
            data += near.recv(65536)
        assert data == block

    return server, client


def poller() -> Turn:
    reading, writing = os.pipe()
    epoll = select.epoll()
    epoll.register(reading, select.EPOLLIN)

    def turn() -> None:
        assert epoll.poll(0.001) == []
        os.write(writing, b"x")
        assert epoll.poll(60) == [(reading, select.EPOLLIN)]
        assert os.read(reading, 10) == b"x"

    return turn


def compute() -> Turn:
    data = os.urandom(1 << 20)
    total = zlib.crc32(data)

    def turn() -> None:
        assert zlib.crc32(data) == total

    return turn


def consumer() -> tuple[Turn, Turn]:
    waiting: queue.Queue[int] = queue.Queue(1)

    def produce() -> None:
        waiting.put(1, timeout=60)

    def consume() -> None:
        assert waiting.get(timeout=60) == 1

    return produce, consume


for number, body in enumerate((*echo(None), *echo(60), poller(), compute(), *consumer())):
    checked(number, body)
print(json.dumps({"pid": os.getpid()}), flush=True)
for _ in sys.stdin:
    print(json.dumps({"work": sum(work), "errors": errors}), flush=True)

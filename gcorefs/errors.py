"""What all errors of gcorefs have in common; each layer has its own beside what raises them."""

import enum
from typing import Self


class GcorefsError(Exception):
    """Every error that gcorefs raises on purpose, whatever else it is (OSError, ValueError)."""


class Why(enum.Enum):
    """Why something is refused: the errno that the caller sees, what the log says, and what helps.

    Each layer has an enum of its own: process/errors.py, mount/errors.py.
    """

    def __init__(self, errno_: int, text: str, step: str) -> None:
        """`step`: the next step of whoever reads it; PID stands for the process."""
        self.errno = errno_
        self.text = text
        self.step = step


class Refusal(GcorefsError, OSError):
    """A core that cannot be had.  `errno` is what open(2) or read(2) fails with."""

    def __init__(self, reason: Why, pid: int, detail: str = "") -> None:
        """`pid` is 0 where it was no process that was asked for, but a directory."""
        text = f"process {pid}: {reason.text}" if pid else f"the mount: {reason.text}"
        super().__init__(reason.errno, f"{text} ({detail})" if detail else text)
        self.reason = reason
        self.pid = pid
        self.detail = detail

    def __str__(self) -> str:
        return str(self.strerror)

    @property
    def step(self) -> str:
        """What helps.  Not a part of the text: the log says why, and who reads a log asks later."""
        return self.reason.step.replace("PID", str(self.pid)) if self.pid else self.reason.step

    def bare(self) -> Self:
        """This error without what led to it: the frames hold buffers, descriptors, whole cores."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self

"""Every error at the command line is one line."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from gcorefs.cli.printable import printable
from gcorefs.process.errors import Reason, is_no_memory, limit_met, named_with_limit
from gcorefs.process.threads import NoThread

SHORT_OF_MEMORY = (MemoryError, ImportError, SystemError)
"""With a small RLIMIT_AS a library cannot be mapped, and the interpreter itself loses some errors.
Modules are imported late, in the middle of a command too."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class _OutOfMemory(click.ClickException):
    """The end of the command.  That of the interpreter needs memory too, and writes a line about
    each module for which there is none."""

    def show(self, file: IO[Any] | None = None) -> None:
        super().show(file)
        with contextlib.suppress(OSError, ValueError, MemoryError):
            sys.stdout.flush()
        os._exit(self.exit_code)


def text_of(error: Exception) -> str:
    """Of one of SHORT_OF_MEMORY: they often have none."""
    return str(error) or Reason.NO_MEMORY.text


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Tell in one line what the user has to change, limits of gcorefs itself (setrlimit(2)) among
    it.  An error of another kind is ours, and has its traceback."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise click.UsageError(printable(error.format_message()), error.ctx) from None
    except _OutOfMemory:  # of a command within a command
        raise
    except click.ClickException as error:
        raise click.ClickException(printable(error.format_message())) from None
    except NoThread as error:
        raise click.ClickException(str(error.strerror)) from None
    except OSError as error:
        # Only standard output has no name in its errors.
        if error.errno in _FULL and error.filename is None:
            text = f"the output cannot be written: {error.strerror}"
            raise click.ClickException(text) from None
        if limit_met(error) is None and not is_no_memory(error):
            raise
        raise click.ClickException(printable(named_with_limit(error))) from None
    except SHORT_OF_MEMORY as error:
        raise _OutOfMemory(printable(text_of(error))) from None

"""Every process is a file holding its ELF core, made on demand while the process lives.

The package is laid out in the order in which a request meets it, and each room imports
only from those above it (tests/pure/test_layering.py holds it to that):

    errors.py     what all errors have in common.
    tuning.py     time-outs and sizes that are no options.
    arch/         what differs between machines: registers, calls, the size of a page.
    elfcore/      the format: ELF, memory maps, notes, layout.  No process, no clock.
    option.py     one option: its name, what it may be, its default; the table of them all.
    policy.py     the options that shape one core.
    plan.py       what was seen of a process, and the core that follows from it.
    lifecycle.py  the phases of a stop, and the steps between them.
    kernel/       the system calls that Python lacks, and /proc.
    process/      one live process seen from outside: threads, permission, memory.
    gather.py     asks a process that stands still for all that its core is made of.
    holder.py     how the memory of a core outlives the stop.
    core.py       one core: from an offset of the file to its bytes.
    stopped.py    one process that stands still, and its cores.
    export/       where a dumped core goes: a file that is whole or not there, a stream.
    api.py        the Python interface: stop(), Policy, Core, the errors.
    mount/        FUSE: the same cores behind open, read, poll and release.
    cli/          commands for people.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcorefs.api import (
        Core,
        GcorefsError,
        Policy,
        ProcessError,
        Reason,
        Sink,
        SinkError,
        Stop,
        open_sink,
        stop,
    )

__all__ = [
    "Core",
    "GcorefsError",
    "Policy",
    "ProcessError",
    "Reason",
    "Sink",
    "SinkError",
    "Stop",
    "__version__",
    "open_sink",
    "stop",
]

# Here, not from importlib.metadata: that takes 4 MiB, beside a process that has none to spare.
__version__ = "0.1.0"


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The Python interface, imported when it is asked for: a command that stops nobody has no
        memory to spare for it either."""
        if name in __all__:
            from gcorefs import api  # noqa: PLC0415

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

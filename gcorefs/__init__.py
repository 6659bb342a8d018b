"""A file system in which every process is a file that holds its ELF core.

docs/architecture.md has a table of the folders, and imports run one way through it
(tests/pure/test_layering.py).  api.py is the Python interface, which this package offers too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcorefs.api import *  # noqa: F403

# The names of api.py once more: to read them there, this module would have to import it.
__all__ = [  # noqa: F405
    "Core",
    "GcorefsError",
    "OptionError",
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
        """Import the Python interface when somebody asks for it: a command that stops nobody has
        no memory to spare for it either."""
        if name in __all__:
            from gcorefs import api  # noqa: PLC0415

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

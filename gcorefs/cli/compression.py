"""--compress and --level, for each command that writes a core."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from gcorefs.export.sink import Sink

LEVEL = click.IntRange(1, 19)
"""Above, zstd takes much memory, for windows that are larger than a frame."""

_METHOD = click.option(
    "--compress", type=click.Choice(["zstd"]),
    help="Write a zstd file, of which `gcorefs cat` reads any part.",
)  # fmt: skip
_LEVEL = click.option(
    "--level", type=LEVEL,
    help="Of --compress: the higher, the smaller the file, and the longer it takes.  [default: 3]",
)  # fmt: skip


class Compression(NamedTuple):
    """How a core is compressed, if it is."""

    method: str | None = None
    level: int | None = None

    @property
    def suffix(self) -> str:
        """The end of a name that nobody chose."""
        return ".zst" if self.method else ""

    def load(self) -> None:
        """Import the compressor now, for a command that runs for weeks: later its file may be gone,
        or that of another version."""
        if self.method is not None:
            import gcorefs.export.compressed  # noqa: F401, PLC0415

    def sink(self, to: Callable[[], Sink]) -> Sink:
        """The sink that `to` makes, behind the compressor.  SinkError."""
        return self.named_sink(lambda: (to(), ""))[0]

    def named_sink(self, to: Callable[[], tuple[Sink, str]]) -> tuple[Sink, str]:
        """The same for a sink whose name `to` knows.  SinkError."""
        if self.method is None:
            return to()
        # Imported here to save memory in a dump that is not compressed (victim.py), and before the
        # sink is made, which nobody would abort.
        from gcorefs.export.compressed import DEFAULT_LEVEL, CompressedSink  # noqa: PLC0415

        sink, name = to()
        return CompressedSink(sink, self.level or DEFAULT_LEVEL), name


def takes_compression(command: Callable[..., None]) -> Callable[..., None]:
    """Add both options to a command, as parameter `compression`."""

    @functools.wraps(command)
    def with_compression(*arguments: Any, **named: Any) -> None:
        compression = Compression(named.pop("compress"), named.pop("level"))
        if compression.level is not None and compression.method is None:
            raise click.UsageError("--level is the level of --compress")
        command(*arguments, compression=compression, **named)

    return _METHOD(_LEVEL(with_compression))

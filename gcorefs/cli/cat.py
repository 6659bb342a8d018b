"""gcorefs cat: bytes of a compressed core, without the rest."""

from typing import Any

import click

from gcorefs.cli.named_path import NamedPath
from gcorefs.export.seekable import SeekableError, SeekableFile
from gcorefs.export.sink import SinkError, open_sink


class _Bytes(click.ParamType[int]):
    """A number of bytes, also as readelf(1) prints it: 0x1000."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            number = int(value, 16) if value.lower().startswith("0x") else int(value)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 63:
            self.fail(f"{value!r} is no number of bytes, such as 4096 or 0x1000", param, ctx)
        return number


@click.command()
@click.argument("file", type=NamedPath())
@click.option("--offset", type=_Bytes(), default=0, help="Where to begin.  [default: 0]")
@click.option("--length", type=_Bytes(), help="How much at most.  Default: up to the end.")
def cat(file: str, offset: int, length: int | None) -> None:
    """Write the content of a compressed core to standard output.

    FILE is what `gcorefs dump --compress zstd` has written.  Only what is asked for is
    decompressed.  Offsets are those of the core before it was compressed.
    """
    try:
        with SeekableFile(file) as content:
            if offset > content.size:
                raise click.ClickException(f"{file}: its content has only {content.size} bytes")
            sink = open_sink("-", is_chosen=True)
            try:
                for piece in content.pieces(offset, content.size if length is None else length):
                    sink.write(piece)
                sink.commit()
            finally:
                sink.abort()
    except (SeekableError, SinkError) as error:
        raise click.ClickException(str(error)) from error

"""A file that is written in one piece: whoever reads it sees the old content or the new one."""

from gcorefs.export.sink import open_sink


def write_whole(path: str, data: bytes, mode: int) -> None:
    """Replace the file.  `mode`: as open(2) takes it.  SinkError."""
    sink = open_sink(path, is_chosen=False, mode=mode)
    try:
        sink.write(memoryview(data))
        sink.commit()
    finally:
        sink.abort()

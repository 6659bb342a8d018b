"""What the log tells of stops, counted for Prometheus (--metrics).

The thread of the log counts and writes: neither may wait for a disk in the event loop.  So what the
log drops is not counted either.
"""

import contextlib
import logging

from gcorefs.export.sink import SinkError
from gcorefs.export.whole_file import write_whole
from gcorefs.mount.fields import KIND
from gcorefs.telemetry.metrics import MODE, Metrics


class Counts:
    def __init__(self, path: str) -> None:
        """SinkError: the file cannot be written."""
        self._path = path
        self._metrics = Metrics()
        self._is_written = False
        self.write()

    def add(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        if "GCOREFS_STOPPED_USEC" in fields:
            stopped = fields["GCOREFS_STOPPED_USEC"] / 1e6
            self._metrics.taken(KIND, stopped, fields["GCOREFS_BYTES"])
        elif "ERRNO" in fields:
            self._metrics.failed(fields["ERRNO"], fields.get("GCOREFS_COUNT", 1))
        else:
            return
        self._is_written = False

    def write(self) -> None:
        """SinkError.  Does nothing if nothing has changed."""
        if not self._is_written:
            self._is_written = True
            write_whole(self._path, self._metrics.text(), MODE)

    def write_if_possible(self) -> None:
        with contextlib.suppress(SinkError):  # the next one may do better
            self.write()

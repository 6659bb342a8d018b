"""Counts of what was taken, as a file for the textfile collector of Prometheus's node_exporter.

The collector reads whole files that end in .prom, at any moment, as another user.  So the file is
replaced when it is complete, and all may read it: it has no name of a process and no pid.
"""

import errno

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

STOPPED_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
"""Seconds, as Prometheus wants all times: from one millisecond to one minute."""

MODE = 0o644
"""Of the file."""

# When each count began: the collector does not know what that is.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counts of this program since it began."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._taken = Counter(
            "gcorefs_dumps", "Cores, stacks and bundles that were taken.", ["kind"],
            registry=registry,
        )  # fmt: skip
        self._stopped = Histogram(
            "gcorefs_stopped_seconds", "How long a process stood still.",
            buckets=STOPPED_BUCKETS, registry=registry,
        )  # fmt: skip
        self._bytes = Counter(
            "gcorefs_bytes", "Bytes that were written, or read from the mount.", registry=registry
        )
        self._errors = Counter(
            "gcorefs_errors", "What could not be taken, or be written.", ["errno"],
            registry=registry,
        )  # fmt: skip

    def taken(self, kind: str, stopped: float, size: int) -> None:
        """`kind`: dump, stacks, bundle.  `stopped`: seconds."""
        self._taken.labels(kind).inc()
        self._stopped.observe(stopped)
        self._bytes.inc(size)

    def failed(self, number: int | None, count: int = 1) -> None:
        """`number`: the errno, if there is one."""
        self._errors.labels(errno.errorcode.get(number or 0, "none")).inc(count)

    def text(self) -> bytes:
        return generate_latest(self._registry)

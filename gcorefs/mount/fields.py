"""The fields of log lines, for the journal and for what counts (systemd.journal-fields(7))."""

from gcorefs.errors import Refusal

KIND = "dump"


def of_refusal(error: Refusal, count: int = 1) -> dict[str, object]:
    """The fields of the log line about a refusal, or about several like it."""
    several = {"GCOREFS_COUNT": count} if count > 1 else {}
    return {"ERRNO": error.reason.errno, **about(error.pid), **several}


def about(pid: int) -> dict[str, object]:
    """The fields that name a process.  The journal looks up OBJECT_PID, if we are root."""
    return {"GCOREFS_PID": pid, "OBJECT_PID": pid} if pid else {}

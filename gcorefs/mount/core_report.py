"""What the log, `gcorefs status` and getfattr(1) say of a core."""

from datetime import UTC, datetime
from typing import Any

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.provenance import MOST_RANGES, as_text
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.fields import KIND, about
from gcorefs.mount.log import logger
from gcorefs.process import readv
from gcorefs.telemetry.journal import STOPPED


def log_end(shared: SharedCore) -> None:
    """Log what became of a core whose stop is over, unless the core failed."""
    if (core := shared.bytes.core) is None or shared.has_failed:
        return
    policy = shared.keeper.policy_text(shared.policy)
    starved = f", {core.starved_threads} got no CPU" if core.starved_threads else ""
    logger.info(
        "process %d: %s by process %d (uid %d): %d threads (%d did not stop%s), "
        "ready in %.1f ms, stopped for %.1f ms, %d bytes read, %d pages unreadable%s%s",
        shared.process.pid,
        "opened" if shared.was_open else "looked up",
        shared.opener.pid,
        shared.opener.uid,
        core.threads,
        core.unresponsive_threads,
        starved,
        shared.stop.ready_seconds * 1e3,
        (shared.stop.stopped_seconds + shared.keeper.paused_seconds) * 1e3,
        shared.bytes.served,
        core.unreadable,
        _how_held(shared),
        f", {policy}" if policy else "",
        extra={"fields": _fields(shared, core.threads)},
    )


def _fields(shared: SharedCore, threads: int) -> dict[str, object]:
    stopped = shared.stop.stopped_seconds + shared.keeper.paused_seconds
    return {
        **about(shared.process.pid),
        "MESSAGE_ID": STOPPED,
        "GCOREFS_KIND": KIND,
        "GCOREFS_STOPPED_USEC": round(stopped * 1e6),
        "GCOREFS_THREADS": threads,
        "GCOREFS_BYTES": shared.bytes.served,
        "GCOREFS_OPENER_PID": shared.opener.pid,
        "GCOREFS_OPENER_UID": shared.opener.uid,
    }


def _how_held(shared: SharedCore) -> str:
    if why := shared.holder.not_copied:
        return f", held (not copied: {why})"
    if not shared.holder.was_filled:
        return ""
    return ", read while it ran" if shared.policy.is_read_live else ", copied"


def facts(shared: SharedCore) -> dict[str, Any]:
    """One core for `gcorefs status`.  Times are in milliseconds.  Any thread may call this."""
    state, why = _state(shared)
    core = shared.bytes.core
    return {
        "pid": shared.process.pid,
        "name": shared.stop.comm.decode("utf-8", "replace"),
        "state": state,
        "why": why,
        "policy": shared.keeper.policy_text(shared.policy),
        "began": datetime.fromtimestamp(shared.began / 1e9, UTC).isoformat(timespec="seconds"),
        "threads": core.threads if core is not None else 0,
        "threads_not_stopped": core.unresponsive_threads if core is not None else 0,
        **shared.holder.facts(),
        "read_through": core.read_through if core is not None else readv.way(),
        "ready_ms": round(shared.stop.ready_seconds * 1e3, 1),
        "stopped_ms": round((shared.stop.stopped_seconds + shared.keeper.paused_seconds) * 1e3, 1),
        "bytes_read": shared.bytes.served,
        "pages_unreadable": core.unreadable if core is not None else 0,
        "size": shared.size,
    }


def _state(shared: SharedCore) -> tuple[str, str]:
    if shared.bytes.error is not None:
        return "failed", str(shared.bytes.error)
    if shared.stop.is_dead:
        return "died", ""
    if shared.keeper.is_let_go:
        return "let go", shared.keeper.why_over
    waits = [] if shared.is_open else ["waits to be opened"]
    if shared.holder.is_filled:
        return ("live" if shared.policy.is_read_live else "copied"), "".join(waits)
    why = [f"not copied: {shared.holder.not_copied}"] if shared.holder.not_copied else []
    return ("stopped" if shared.is_ready else "stopping"), "; ".join(waits + why)


def attributes(shared: SharedCore) -> dict[str, str]:
    """The extended attributes of its file (xattr(7)), without their prefix.  Empty before the core
    is ready."""
    core = shared.bytes.core
    if core is None or not shared.is_ready:
        return {}
    woken = {"threads.woken": str(shared.stop.woken)} if shared.policy.stop == "gentle" else {}
    return core.provenance.attributes() | {
        **woken,
        **{f"policy.{name}": value for name, value in core.hold.items()},
        "state": _state(shared)[0],
        # The count of this moment: some pages turn out to be unreadable only at their read.
        "bytes.unreadable": str(core.unreadable * PAGE_SIZE),
        "unreadable": " ".join(as_text(core.unreadable_ranges[:MOST_RANGES])),
    }

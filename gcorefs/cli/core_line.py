"""One line of text about a core that was taken."""

from gcorefs import api


def core_line(name: str, core: api.Core, stopped: float, size: int | None = None) -> str:
    """`stopped`: for how many seconds the process stood still.  `size`: bytes, if it is not that of
    the core that counts."""
    threads = core.facts["threads"]
    others = [f"{count} {how}" for how, count in threads.items() if count and how != "stopped"]
    count = sum(threads.values())
    unreadable = [f"{core.unreadable} pages unreadable"] if core.unreadable else []
    return ", ".join(
        [
            f"{name}: {count} thread{'s' * (count != 1)}",
            *others,
            f"stopped for {stopped * 1e3:.1f} ms",
            f"{core.size if size is None else size} bytes",
            *unreadable,
        ]
    )

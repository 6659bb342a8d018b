"""When memory runs out, the kernel kills the command that dumps a process, not the process.

A command may run in the memory cgroup of its process (kubectl exec, docker exec), close to the
limit.  The memory of the command must not get that process killed.
"""

import contextlib

import click

from gcorefs.process import cgroups

_FIRST = 1000
"""OOM_SCORE_ADJ_MAX (include/uapi/linux/oom.h): chosen before every other process of any size."""

ENOUGH = 32 << 20
"""Bytes that a command may still need, when it has imported nothing yet.  A core with very many
pieces needs more."""


def volunteer() -> None:
    """Make the kernel choose this process when memory is short (proc_pid_oom_score_adj(5)).

    Any user may raise the score.  If /proc refuses, the score stays as it is.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
        f.write(str(_FIRST))


def spare_others() -> None:
    """ClickException: memory is so short that the kernel could kill this command, and in our
    control group it would kill the process too.  Kubernetes makes such groups (memory.oom.group).
    """
    left = min((limit.left for limit in cgroups.deadly_limits()), default=ENOUGH)
    if left < ENOUGH:
        raise click.ClickException(
            f"memory is short: our control group may have {max(0, left) >> 20} MiB more, and if "
            "that is not enough, the kernel kills all its processes (memory.oom.group): "
            "run gcorefs in another container or control group"
        )

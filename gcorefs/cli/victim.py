"""When memory runs out, the kernel kills the command that dumps a process, not the process.

A command may run in the memory cgroup of its process (kubectl exec, docker exec), close to the
limit.  The memory of the command must not get that process killed.
"""

import contextlib

_FIRST = 1000
"""OOM_SCORE_ADJ_MAX (include/uapi/linux/oom.h): chosen before every other process of any size."""


def volunteer() -> None:
    """Make the kernel choose this process when memory is short (proc_pid_oom_score_adj(5)).

    Any user may raise the score.  If /proc refuses, the score stays as it is.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
        f.write(str(_FIRST))

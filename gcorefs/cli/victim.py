"""Who dies first when memory runs out: the command that looks at a process, not the process.

A command may run in the memory cgroup of its process (kubectl exec, docker exec), close to the
limit.  What it takes there must not be what has that process killed.
"""

import contextlib

_FIRST = 1000
"""OOM_SCORE_ADJ_MAX (include/uapi/linux/oom.h): before all others, whatever their size."""


def volunteer() -> None:
    """Have the kernel choose this process when memory is short (proc_pid_oom_score_adj(5)).

    Anybody may raise it.  Where /proc does not let us, it stays.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
        f.write(str(_FIRST))

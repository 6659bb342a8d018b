"""What a process that is held costs the machine: the memory of its worker and of the server."""

from collections.abc import Callable
from contextlib import ExitStack

from gcorefs.kernel.proc import procfile, task_status
from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, opened, whole

MEBIBYTE = 1 << 20
STOPS = 8
THREADS = 2_000

Spawn = Callable[..., Target]


def private(pid: int) -> int:
    """Bytes that no other process has (proc(5), smaps_rollup)."""
    rollup = task_status.parse_status(procfile.read(f"{pid}/smaps_rollup").partition(b"\n")[2])
    return sum(int(rollup[key].split()[0]) for key in ("Private_Clean", "Private_Dirty")) * 1024


def worker_of(pid: int) -> int:
    """The process that holds another one."""
    return task_status.tracer(pid, pid)


def test_a_small_process_takes_as_much_as_the_manual_says(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    """docs/mount.md: about 7 MiB."""
    mount = mount_with("idle_timeout=0")
    targets = [spawn("threads", 1).pid for _ in range(STOPS + 1)]
    with ExitStack() as stack:

        def read(pid: int) -> None:
            whole(stack.enter_context(opened(mount / pid)))

        read(targets.pop())  # what the first one takes is there for all
        before = private(mount.server)
        for pid in targets:
            read(pid)
        workers = {worker_of(pid) for pid in targets}
        assert len(workers) == STOPS
        # The windows of a reader are given back when it has read nothing for a while.
        eventually(lambda: private(mount.server) - before < STOPS * MEBIBYTE)
        assert max(map(private, workers)) < 7.5 * MEBIBYTE


def test_what_a_stop_took_only_while_it_was_taken_is_given_back(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    mount = mount_with("idle_timeout=0")
    target = spawn("threads", THREADS)
    with opened(mount / target.pid) as fd:
        whole(fd)
        eventually(lambda: private(worker_of(target.pid)) < 18 * MEBIBYTE)

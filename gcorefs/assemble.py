"""Makes one core of a process that stands still: asks for the evidence, and plans the file."""

import contextlib
from concurrent.futures import Future

from gcorefs import tuning
from gcorefs.core import Core
from gcorefs.elfcore.header_store import Shelf
from gcorefs.gather import gather
from gcorefs.hold.holder import Holder
from gcorefs.plan import plan_core, plan_loads
from gcorefs.policy import Policy
from gcorefs.process.worker_threads import Postponed, Worker
from gcorefs.standstill import Standstill
from gcorefs.steps import Step


def assemble(seen: Standstill, policy: Policy, holder: Holder) -> Core:
    """The core with this policy.  The caller has prepared `holder`, which has looked at the memory.

    ProcessError, OSError: it could not be recorded.
    """
    reach = tuning.now().reach
    reach(Step.ASSEMBLING, seen.pid)
    evidence = gather(seen, policy)
    reach(Step.ASSEMBLED, seen.pid)
    loads = plan_loads(evidence)
    holder.fit(loads.in_file)
    # To read the CPU times of a thread takes 8 us, as long as all else that is recorded of it, and
    # they do not change while the thread stands still.  So they are read later.  But a thread that
    # did not stop may be gone later.
    is_later = len(evidence.threads.registers) >= tuning.now().many_threads and not seen.late
    later = Postponed() if is_later else None
    shelf = Shelf(later.promise) if later is not None else None
    plan = plan_core(evidence, loads, policy, holder.facts(), shelf)
    return Core(seen.pid, plan, seen.memory, holder, seen.check, _begin(later))


def _begin(later: Postponed | None) -> "Future[None] | None":
    """Start a thread that makes the rest of a header."""
    if later is None:
        return None
    with contextlib.closing(Worker("gcorefs-notes")) as worker:
        return worker.submit(later.do)

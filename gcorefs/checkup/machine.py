"""The machine and this caller, looked at once."""

from dataclasses import dataclass

from gcorefs.checkup.caller import Caller, ask_caller
from gcorefs.checkup.finding import Finding
from gcorefs.checkup.fuse import Fuse, ask_fuse, fuse
from gcorefs.checkup.headroom import Headroom, ask_headroom, headroom
from gcorefs.checkup.host import Host, Security, ask_host, ask_security, host, security
from gcorefs.checkup.privileges import privileges
from gcorefs.checkup.proc_view import ProcView, ask_proc_view, proc_view
from gcorefs.kernel.proc import tasks


@dataclass(frozen=True, slots=True)
class Machine:
    caller: Caller
    fuse: Fuse
    proc_view: ProcView
    host: Host
    security: Security
    headroom: Headroom

    def findings(self) -> list[Finding]:
        return [
            *fuse(self.fuse, self.caller),
            *host(self.host),
            *privileges(self.caller),
            *security(self.security),
            *proc_view(self.proc_view, self.caller),
            *headroom(self.headroom),
        ]


def ask_machine() -> Machine | None:
    """The caller has one thread, and may have children.  None: /proc is not ours (NOT_OURS), so it
    would tell of others what we ask about us."""
    return (
        None
        if not tasks.is_ours()
        else Machine(
            caller=ask_caller(),
            fuse=ask_fuse(),
            proc_view=ask_proc_view(),
            host=ask_host(),
            security=ask_security(),
            headroom=ask_headroom(),
        )
    )

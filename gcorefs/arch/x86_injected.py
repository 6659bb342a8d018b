"""How threads of both kinds of x86 processes are made to call the kernel."""

from gcorefs.arch.machine import Injected

_TRAP = 0x100  # EFLAGS.TF, Intel SDM vol. 1, 3.4.3.3

# Numbers of syscall_64.tbl and syscall_32.tbl.  The calls with another mask: rt_sigsuspend,
# pselect6, ppoll, epoll_pwait, epoll_pwait2, io_pgetevents, io_uring_enter; and rt_sigtimedwait,
# which unblocks what it waits for (kernel/signal.c, do_sigtimedwait).
X86_64_INJECTED = Injected(
    instruction=b"\x0f\x05",  # syscall
    numbers={"clone": 56, "wait4": 61, "prctl": 157, "close_range": 436},
    with_other_mask=frozenset((128, 130, 270, 271, 281, 333, 426, 441)),
    flags="eflags",
    trap=_TRAP,
)
I386_INJECTED = Injected(
    instruction=b"\xcd\x80",  # int $0x80: [vdso] has it behind sysenter, and returns there
    numbers={"clone": 120, "wait4": 114, "prctl": 172, "close_range": 436},
    with_other_mask=frozenset((72, 177, 179, 308, 309, 319, 385, 413, 414, 416, 421, 426, 441)),
    flags="eflags",
    trap=_TRAP,
)

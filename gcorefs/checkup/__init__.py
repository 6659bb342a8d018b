"""What works on this machine and for this caller, and what a process would cost: `gcorefs check`.

Each topic has a dataclass of facts, and a pure function that makes findings of them.

finding   one line: a mark, a fact, and the next step
caller    who we are, and what the kernel lets us do to others
privileges  findings about that
fuse      whether something can be mounted
proc_view  what /proc shows
host      the kernel's features, BPF, and security modules
headroom  memory, and the limits of this process
machine   all of these, asked once
target    one process: whether it can have a core, what it costs, and which policy to take
"""

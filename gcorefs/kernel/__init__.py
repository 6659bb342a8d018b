"""What the kernel is asked by: the system calls that Python lacks, and /proc.

A module is a topic.  Each function does one thing, raises OSError with the errno of the call, and
knows nothing of stops, cores and policies.

libc      which call lets go of the interpreter lock, and why
ptrace    stopping a thread, and what it tells of one that stands
wait4     what became of a tracee, and waking a thread of ours that waits for it
siginfo   the structure that both fill
robust_list  whether a thread belongs to a program
seccomp   whether a filter judges the calls of a thread
process_vm  the memory of another process
pagemap_scan  runs of pages in page tables, by what they are
own_memory  our own memory, where mmap of Python is not enough
statx     what the kernel has of a file
stdio     a long file of /proc, read with few calls
credentials  whom the kernel takes a thread of ours for
proc      what /proc says, one module a topic
"""

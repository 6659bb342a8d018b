"""The interface to the kernel: the system calls that Python lacks, and /proc.

Each module has one topic.  Each function does one thing, raises OSError with the errno of the
call, and knows nothing of stops, cores and policies.

libc      which calls release the interpreter lock, and why
ptrace    stops a thread, and reads the state of a stopped one
wait4     the wait status of a tracee
bell      wakes one of our threads that sleeps in a system call
siginfo   the structure that both use
ending_signals  the signals that end a process by default
open_file  a file descriptor that may be passed to another process
robust_mutex  tells other processes that one of our threads has ended
robust_list  whether a thread belongs to a program
seccomp   whether a filter judges the system calls of a thread
bpf       iterators over the mappings of a process
libbpf    loads the program of such an iterator
process_vm  the memory of another process
pagemap_scan  runs of pages with given properties, from the page tables
soft_dirty  which pages a process has written
own_memory  our own memory, beyond what Python's mmap can do
statx     the attributes of a file, with the choice whether a file server is asked
patient   writes all of something, also with O_NONBLOCK
stdio     reads a long file of /proc with few calls
credentials  changes the credentials of one of our threads
proc      /proc, one module for each topic
"""

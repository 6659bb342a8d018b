"""One live process, seen from outside: blocking system calls, no event loop.

errors    why a process has no core: the errno and a line of text
threads   threads of our own
worker_threads  work for another thread, and work for later
bounded_questions  questions that may never be answered, each with a time limit
admission  which processes may be stopped at all
access    whether an opener may see a process; the kernel decides
hidepid   what /proc shows to somebody else
mark      processes that stop others, and are never stopped themselves
progress  how far a stop is, for readers in other threads and processes
late      threads that have not stopped yet when all others are let go
filter_facts  what the kernel's filter has to know of a mapping
mapped_files  the files behind mappings
pagemap   which pages are in the page tables
page_walk  one walk of the page tables by all cores
walks     when the page tables are walked to find holes
holes     memory that was never populated, found without touching it
unreadable  which pages cannot be read, found before any is read
guards    pages that the process itself may not touch
unreadable_pages  which pages could not be read
page_providers  which pages somebody else must supply, who may never answer
ranges    ranges of memory, and where the bytes of each go in one buffer
runs      sets of addresses
forkable  memory that a child of the process has for itself
child_memory  the memory in such a child
flushed_files  open files whose close asks a server
tracking  memory in which the kernel marks what is written
pipe_reader  whether the process reads what we write into a pipe
quiet_open  opens a file of the process so that nobody sees it, or does not open it
shmem     shared memory without a name, read from its file
copy_on_write  which pages a pin would copy
mem       /proc/PID/mem, one way to read memory
readv     process_vm_readv(2), another way
memory    the memory of the process, each page read in the right way
peek      small reads at addresses that may be wrong
stacks    the live part of each thread's stack
dynamic_linker  what the dynamic linker and libc keep for debuggers
lost_code  code that no file holds any more
written_data  data of programs that differ from their files
referenced  the memory at the addresses that registers and stacks hold
unwinding  all that a debugger needs for a backtrace of every thread
cgroups   the memory limits of control groups, and whether they are frozen
group_names  what the path of a control group says
search    the processes that have a name, a program, a group, an ancestor
kernel_features  what the kernel of this host can do for us
program   which program a process runs, to see later whether it is still the same
"""

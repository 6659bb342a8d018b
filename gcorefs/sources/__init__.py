"""Where registers and mappings come from.

protocols  what a source of registers and a source of mappings is
thread_record  what a source of registers gives for each thread
ptrace    registers of a thread that stands in its stop
restart   which interrupted calls the kernel would not restart by itself
call_again  has them made again on a machine where that takes more than a register
sleeping  threads that sleep in a system call, and their registers without waking them
judging   whose registers they are, of a process that may call execve(2) meanwhile
asleep    the threads that a gentle stop leaves asleep
first_process  stops that the first process of a pid namespace would not have seen without us
tracees   the threads that are seized, interrupted or recorded
seizing   finds the threads of a process, and seizes them
stopping  interrupts every thread, and waits for the stops, until no new one is found
injection  system calls that a stopped thread makes for us
forking   a child of the process, for its memory
nurse     that child from its birth to its end
holding   holds the threads, and lets them go
tracer    carries out a stop in an OS thread of its own
onlooker  looks at a process without a stop, in place of a tracer
bpf_choice  whether BPF is used
bpf       mappings, and registers of threads that sleep, from BPF
procfs    what /proc tells: mappings, and a few registers of a thread that sleeps
"""

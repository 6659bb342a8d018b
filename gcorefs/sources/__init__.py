"""Where registers and mappings come from.

protocols  what a source of registers and a source of mappings is
thread_record  what a source of registers gives for each thread
ptrace    registers of a thread that stands in its stop
restart   which interrupted calls the kernel would not restart by itself
call_again  has them made again on a machine where that takes more than a register
tracees   the threads that are seized, interrupted or recorded
stopping  seizes and interrupts every thread, and waits for the stops
holding   holds the threads, and lets them go
tracer    carries out a stop in an OS thread of its own
onlooker  looks at a process without a stop, in place of a tracer
mappings  which source of mappings is in use
bpf       mappings from BPF
procfs    what /proc tells: mappings, and a few registers of a thread that sleeps
"""

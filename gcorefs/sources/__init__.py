"""Where registers and mappings come from.

protocols  what a source of registers and a source of mappings is
thread_record  what a source of registers gives for each thread
ptrace    registers of a thread that stands in its stop
restart   which interrupted calls the kernel would not restart by itself
tracer    stops the threads, has them recorded, holds them, lets them go
procfs    what /proc tells: mappings, and a few registers of a thread that sleeps
"""

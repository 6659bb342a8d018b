"""BPF as a source: programs that the kernel runs for each mapping, or each thread, of a process.

mappings.bpf.c and registers.bpf.c are built by clang (Makefile), and only if they were, there is
something to load.

loading   loads the programs, and learns what they need to know, in a child
samples   mappings of our own whose flags are known
subject   a process of our own whose registers are known
mappings  the mappings of a process, from BPF and maps
registers  the registers of threads that do not run
"""

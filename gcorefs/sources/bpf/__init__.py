"""BPF as a source: programs that the kernel runs for each mapping of a process.

mappings.bpf.c is built by clang (Makefile), and only if it was, there is something to load.

loading   loads the program, and learns what it needs to know, in a child
samples   mappings of our own whose flags are known
mappings  the mappings of a process, from BPF and maps
"""

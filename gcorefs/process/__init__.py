"""One live process, seen from outside: blocking system calls, no event loop.

errors    what can be wrong, with its errno and what to do about it
syscalls  everything that ctypes is needed for
procfs    what /proc says
restart   which interrupted calls the kernel would not restart by itself
access    may this opener see that process?  The kernel decides
record    what is recorded of a thread in its stop
tracer    stops the threads, has them recorded, holds them, lets them go
pagemap   which pages are in the page tables
shared    shared memory without a name, by way of its file
holes     what was never populated, found without touching it
absent    which pages somebody else has to bring, who may never answer
patience  questions to such, each given a moment
lost      pages that could not be had
memory    bytes out of the process
"""

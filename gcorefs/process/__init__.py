"""One live process, seen from outside: blocking system calls, no event loop.

errors    what can be wrong, with its errno and what to do about it
turns     who goes first where several want the interpreter
later     work that another thread does, or that is done at another time
mappings  what is mapped, read as it comes
mark      processes that stop others, which are never stopped themselves
restart   which interrupted calls the kernel would not restart by itself
admission which processes may be stopped at all
access    may this opener see that process?  The kernel decides
hidepid   what /proc shows to somebody else
record    what is recorded of a thread in its stop
tracer    stops the threads, has them recorded, holds them, lets them go
pagemap   which pages are in the page tables
shared    shared memory without a name, by way of its file
holes     what was never populated, found without touching it
facts     what the kernel's filter has to know of a mapping
unreadable  which pages cannot be had, before any is read
absent    which pages somebody else has to bring, who may never answer
patience  questions to such, each given a moment
lost      pages that could not be had
memory    bytes out of the process
copy      all of them at once, so that it need not be held
"""

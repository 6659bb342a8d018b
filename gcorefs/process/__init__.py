"""One live process, seen from outside: blocking system calls, no event loop.

errors    what can be wrong, with its errno and what to do about it
worker_threads  work that another thread does, or that is done later
bounded_questions  questions that may never be answered, each given a moment
admission which processes may be stopped at all
access    may this opener see that process?  The kernel decides
hidepid   what /proc shows to somebody else
mark      processes that stop others, and are never stopped themselves
progress  how far a stop is, for readers in other threads and processes
late      threads that have not stopped yet when all others are let go
filter_facts  what the kernel's filter has to know of a mapping
mapped_files  the files behind mappings
pagemap   which pages are in the page tables
holes     what was never populated, found without touching it
unreadable  which pages cannot be had, before any is read
unreadable_pages  which pages could not be had
page_providers  which pages somebody else has to bring, who may never answer
shmem     shared memory without a name, by way of its file
copy_on_write  which pages a pin would copy
memory    bytes out of the process: mem and readv are two of its ways
copy      all of them at once, so that the process need not be held
program   which program a process runs, told from what it becomes later
"""

"""How the memory of a core outlives the stop.

choice    which holder a policy wants
holder    what a stop asks of a holder
uncopied  the process is held, or its memory is read while it runs
copied    the memory is copied while the process stands still
precopied  most of the memory is copied before that, while the process runs
forked    most of the memory is in a child that the process has forked
image     an image of memory by address, and which part of it is still true
store     where the bytes of a copy are kept
copy      in memory; and how they are copied by all CPUs
spool     in a file without a name
room      how much memory, and how much of a disk, copies may take
"""

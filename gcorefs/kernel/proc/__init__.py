"""Reads what /proc shows about a process (proc(5)).  Each module has one topic.

procfile  one file of /proc, and the meaning of an error
tasks     the processes and threads that exist
task_stat  state, times and flags of a thread
task_status  the owner and the tracer of a thread
address_space  the address space of a process as a whole
map_files  the file behind a mapping
current_call  the system call in which a thread sleeps
mountinfo  the mounts that a process sees
membership  the control groups that a process is in
user_namespaces  one id, as two namespaces number it
system_files  the files that belong to no process
watches       the files that a process watches
leases        the files that are under a lease

If a process or thread is gone, ProcessLookupError (ESRCH) is raised, whether the kernel gave ENOENT
or ESRCH.  A file of a living process may be refused or missing too: those are other errors
(procfile.py).
"""

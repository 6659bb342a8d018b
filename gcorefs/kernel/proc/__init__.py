"""What /proc says of a process (proc(5)), one module a topic.

procfile  one file of /proc, and what it means when it cannot be read
tasks     which processes and threads there are
task_stat  state, times and flags of a thread
task_status  whose a thread is, and who traces it
address_space  the address space of a process as a whole
map_files  the file behind a mapping
current_call  the system call in which a thread sleeps
mountinfo  what is mounted where
user_namespaces  one id as two namespaces number it
system_files  what belongs to no process

A missing process or thread raises ProcessLookupError (ESRCH), whichever of ENOENT and ESRCH the
kernel chose to say it with.  A file of a process that lives may be refused or missing as well:
those are other errors (procfile.py).
"""

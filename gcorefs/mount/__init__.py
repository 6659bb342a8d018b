"""FUSE: open, read, poll and release of the same cores.

options  the options after -o
names    what users write to us: names, a pid
policy_names  the policy in the name of a directory
interpreter  settings of the interpreter for an event loop beside threads
errors   why a request is refused, whatever process it is about
pid_lists  what open directories are read from
limits   what one user may have, and what all users may have together
subordinate  which user owns a subordinate uid
log      a log that never waits for its reader
fields   what log lines tell as fields
counts   what the log tells, counted for Prometheus
refusals  the log lines about refused requests
in_thread  blocking calls outside of the event loop
inodes   one inode is one process with one policy, as long as its bytes do not change
questions  questions about processes that may never be answered
sight    what a user may see, as in /proc
shared   one answer for all who ask the same at the same time
looks    asks both in threads, for a caller
door     who may open
errands  work that another thread does while the event loop waits in place
buffers  the memory for replies
windows  the memory for reading ahead, and which user has how much of it
readahead  reads ahead of a reader that goes forward
reading  the ways to get bytes: from memory here, by an errand, or by a thread
crew     the processes that carry out stops, and the conversation with each
pools    workers, threads for blocking work, and their buffers
answers  what a worker says, by the request that it is about
remote_child  the child that a worker has a process make (hold=fork)
remote_stop  a stop in a worker, as the event loop sees it
holders  who has a file open, and who has looked it up
keeper   what a core needs of its stop
core_bytes  the bytes of one core, and the wait for them
cores    one core of a stop: who may have it, and who has it
core_report  what the log and `gcorefs status` say of a core
hold_time  how long a process is held
max_stop  the same, while its first core is made
pauses   short stops before that, for a copy of memory that runs ahead
making   makes the cores of a stop, each in its time
ending   the end of a stop: until no thread is traced and its child is reaped
stops    one stop of one process, and its cores; lets forgotten processes go
rings    processes that read each other's cores
held     every stop of the mount: who begins it, who joins it, when it is forgotten
entries  what stat shows
nodes    what a directory or file of the mount is
process_file  the file of a process
directories  the directories, and their listings
policies  the directories of policies, as long as the kernel knows them
control  the mount's own files: what is held, and a way to let it go
tree     all nodes, by number
readonly  requests that every file refuses
fs       the protocol adapter: it translates and decides nothing
handshake  FUSE_INIT, with what libfuse does not send
bounded_read  keeps the event loop from sleeping in a read of a request
mountpoints  the mounts of this host from outside, and how one is taken away
affordable  how many stops this machine can afford
core_file  a mount of one file, the content of a compressed core
server   mounts, serves, lets everything go, unmounts
"""

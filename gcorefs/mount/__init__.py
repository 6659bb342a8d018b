"""FUSE: open, read, poll and release of the same cores.

options  the options after -o
names    bytes that anybody may send us: names, a pid
interpreter  settings of the interpreter for an event loop beside threads
errors   why a request is refused, whatever process it is about
limits   what one user may have, and what all users may have together
log      a log that never waits for its reader
refusals  the log lines about refused requests
inodes   one inode is one process with one policy, as long as its bytes do not change
listing  what ls shows of a process, without a stop
sight    what a user may see, as in /proc
door     who may open
errands  work that another thread does while the event loop waits in place
buffers  the memory for replies
readahead  reads ahead of a reader that goes forward
reading  the ways to get bytes: from memory here, by an errand, or by a thread
crew     the processes that carry out stops, and the conversation with each
pools    workers, threads for blocking work, and their buffers
remote_stop  a stop in a worker, as the event loop sees it
windows  the memory for reading ahead, and which user has how much of it
holders  who has a file open, and who has looked it up
cores    one core of a stop, shared by every handle of its inode
stops    one stop of one process, and its cores; lets forgotten processes go
held     every stop of the mount: who begins it, who joins it, when it is forgotten
control  the mount's own files: what is held, and a way to let it go
entries  what stat shows
readonly  requests that every file refuses
fs       the protocol adapter: it translates and decides nothing
server   mounts, serves, lets everything go, unmounts
"""

"""FUSE: the same cores behind open, read, poll and release.

options  what may stand behind -o
names    what anybody may write to us: names, a pid
interpreter  set for threads that must not wait long for each other
errors   why a request is refused, whatever process it is about
limits   what one user may have, and what all may have
log      a log that never waits for whoever reads it
refusals  what the log has of those whom nobody lets in
inodes   one inode is one process under one policy, as long as its bytes do not change under it
listing  what ls shows of a process, without stopping it
sight    what a user is shown of it, as of /proc
door     who may open
errands  what the event loop has another thread do, and waits for in place
buffers  what replies are made in
readahead  so that a reader that goes forward finds its bytes waiting
reading  the ways in which bytes come: they lie here, are an errand, or read by a thread
workers  the threads in which the blocking work is done, and their buffers
windows  memory that is read ahead into, on the account of each user
holders  who has a file open, and who has looked it up
cores    one core of a stop, shared by every handle of its inode
stops    one stop of one process, and its cores; lets forgotten processes go
held     every stop of the mount: who begins one, who joins it, what becomes of it
control  the mount's own files: what is held, and a way to let it go
entries  what stat shows
readonly  what no file takes
fs       the protocol adapter: translates, decides nothing
server   mounts, serves, lets everything go, unmounts
"""

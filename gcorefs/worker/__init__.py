"""The process that carries out one stop for a mount, and the conversation with it.

Each stop of a mount has a process of its own while it lasts: a worker.  So no stop makes another
one longer, and a call that hangs blocks only its own worker.  If the server is killed, the worker
lets the process go.

The worker stops and records the threads, and makes the header.  The server reads the memory and
answers FUSE: unlike ptrace(2), process_vm_readv(2) needs only the credentials, and no tracer.  The
command line needs no worker: its own process carries out its one stop.

messages  what a server and a worker say to each other
channel   how a message, with its open files, goes through a socket
page      how far a stop is, seen from another process
header    the header of a core, in memory that both have
zygote    the process that all workers are forked from
service   what a worker does with each message
"""

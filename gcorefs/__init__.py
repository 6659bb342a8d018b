"""Every process is a file holding its ELF core, made on demand while the process lives.

The package is laid out in the order in which a request meets it, and each room imports
only from those above it (tests/pure/test_layering.py holds it to that):

    elfcore/      the format: ELF, memory maps, notes, layout.  No process, no clock.
    option.py     one option: its name, what it may be, its default; the table of them all.
    policy.py     the options that shape one core.
    process/      one live process seen from outside: /proc, ptrace, permission, memory.
    assembly.py   from the records of a stop and the facts of /proc to the file's layout.
    snapshot.py   one stop and its file: take, read, close.
    export/       where a dumped core goes: a file that is whole or not there, a stream.
    mount/        FUSE: the same snapshots behind open, read, poll and release.
    cli/          commands for people.
"""

# Here, not from importlib.metadata: that takes 4 MiB, beside a process that has none to spare.
__version__ = "0.1.0"

"""Every process is a file holding its ELF core, made on demand while the process lives.

The package is laid out in the order in which a request meets it, and each room imports
only from those above it (tests/pure/test_layering.py holds it to that):

    elfcore/      the format: ELF, memory maps, notes, layout.  No process, no clock.
    process/      one live process seen from outside: /proc, ptrace, permission, memory.
    assembly.py   from the records of a stop and the facts of /proc to the file's layout.
    snapshot.py   one stop and its file: take, read, close.
    mount/        FUSE: the same snapshots behind open, read, poll and release.
    cli/          commands for people.
"""

from importlib.metadata import version

__version__ = version("gcorefs")

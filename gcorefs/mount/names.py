"""Bytes that anybody may send us: names to look up, and a pid to release.

    /PID                 a process
    /.gcorefs/status     what is stopped now
    /.gcorefs/release    write a pid here, and that process is let go
    /.gcorefs/exact/PID  a process that is stopped when its name is looked up
    /@POLICY/PID         a process under another policy (policy_names.py)

The directories can be reached by their names, but no listing shows them, like .zfs of ZFS: a
program that walks the tree finds each process once.  And exact lists no process: ls, find and
completion look up the names in a directory, and would stop all of them.
"""

DIRECTORY = b".gcorefs"
STATUS = b"status"
RELEASE = b"release"
EXACT = b"exact"

# Nine digits: more than PID_MAX_LIMIT has (include/linux/threads.h).
_MOST_DIGITS = 9


def pid_of(name: bytes) -> int:
    """The pid in a name, written as /proc writes it; 0 if the name is not a pid."""
    if not name.isdigit() or name[:1] == b"0" or len(name) > _MOST_DIGITS:
        return 0
    return int(name)


def pid_written(data: bytes) -> int:
    """The pid that echo(1) or printf(1) wrote; 0 if it is not a pid."""
    return pid_of(data.removesuffix(b"\n"))

"""What anybody may write to us as bytes: names that are looked up, and a pid to be let go.

    /PID                 a process
    /.gcorefs/status     what is stopped now
    /.gcorefs/release    write a pid here, and that process is let go
    /.gcorefs/exact/PID  a process that is stopped when its name is looked up

The directory is reached by its name and listed nowhere, as ZFS does it with .zfs: whoever
walks the tree finds processes and nothing else.  Nor does exact list anybody: ls, find and
completion look up what they find in a directory, and would stop it.
"""

DIRECTORY = b".gcorefs"
STATUS = b"status"
RELEASE = b"release"
EXACT = b"exact"

# Nine digits are more than PID_MAX_LIMIT has (include/linux/threads.h).
_MOST_DIGITS = 9


def pid_of(name: bytes) -> int:
    """The pid that a name is, as /proc writes it; 0 where it is none."""
    if not name.isdigit() or name[:1] == b"0" or len(name) > _MOST_DIGITS:
        return 0
    return int(name)


def pid_written(data: bytes) -> int:
    """The pid that echo(1) or printf(1) wrote; 0 where it is none."""
    return pid_of(data.removesuffix(b"\n"))

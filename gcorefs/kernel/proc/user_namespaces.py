"""One id, as two user namespaces number it: uid_map and gid_map (user_namespaces(7))."""

import os
import re

from gcorefs.kernel.proc import procfile


def user_namespace(tid: int) -> int:
    """A number that identifies the user namespace of a thread (namespaces(7)).  ESRCH.

    0 if the kernel is built without user namespaces: then all threads share one.
    """
    path = f"{tid}/ns/user"
    try:
        return os.stat(f"/proc/{path}").st_ino
    except FileNotFoundError as error:
        reason = procfile.explained(error, path)
        if isinstance(reason, FileNotFoundError):
            return 0
        raise reason from error
    except OSError as error:
        raise procfile.explained(error, path) from error


_ID_MAP = re.compile(rb"^ *(\d+) +(\d+) +(\d+)$", re.MULTILINE)


def id_inside(text: bytes, number: int) -> int:
    """The inside uid or gid for an outside one (`number`) in a uid_map or gid_map; 65534 if the map
    has none."""
    for inside, outside, count in _ID_MAP.findall(text):
        if 0 <= number - int(outside) < int(count):
            return int(inside) + number - int(outside)
    return 65534


def own_id(pid: int, kind: str, number: int) -> int:
    """A uid or gid (`kind`) as the user namespace of `pid` numbers it; 65534 if it has none.

    user_namespaces(7): the second column of the map is in the reader's namespace, or in the parent
    namespace if the reader is in the same namespace.
    """
    if user_namespace(pid) == user_namespace(os.getpid()):
        return number
    return id_inside(procfile.read(f"{pid}/{kind}_map"), number)

"""uid_map and gid_map (user_namespaces(7)): one id as two namespaces number it."""

import os
import re

from gcorefs.kernel.proc import procfile


def user_namespace(tid: int) -> int:
    """A number that tells the user namespace of a thread from others (namespaces(7)).  ESRCH.

    0 where the kernel is built without user namespaces: there all share one.
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
    """A uid or gid of outside as a uid_map or gid_map turns it; 65534 where it does not."""
    for inside, outside, count in _ID_MAP.findall(text):
        if 0 <= number - int(outside) < int(count):
            return int(inside) + number - int(outside)
    return 65534


def own_id(pid: int, kind: str, number: int) -> int:
    """A uid or gid (`kind`) as the user namespace of `pid` numbers it; 65534 where it has none.

    user_namespaces(7): the map's second column is in the reader's namespace, or in the
    parent's where the reader shares the namespace.
    """
    if user_namespace(pid) == user_namespace(os.getpid()):
        return number
    return id_inside(procfile.read(f"{pid}/{kind}_map"), number)

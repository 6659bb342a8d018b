"""Open files whose close(2) asks a server, which may never answer.

close(2) in any process that has the file open calls the flush of its file system (fs/open.c,
filp_flush).  A child of fork(2) that gives up its files calls it too: close_range(2) with
CLOSE_RANGE_UNSHARE copies the first files before it closes them (fs/file.c, dup_fd).
"""

import os
from collections.abc import Container

from gcorefs.kernel.proc import task_status
from gcorefs.kernel.proc.mountinfo import mounts_of

_COPIED = 64
"""include/linux/fdtable.h, NR_OPEN_DEFAULT."""

LOCAL = frozenset(
    b"ext2 ext3 ext4 xfs btrfs bcachefs f2fs jfs vfat exfat ntfs3 iso9660 udf squashfs erofs zfs "
    b"overlay tmpfs ramfs rootfs hugetlbfs devtmpfs devpts proc sysfs cgroup cgroup2 mqueue nsfs "
    b"securityfs debugfs tracefs bpf configfs pstore efivarfs binfmt_misc fusectl selinuxfs "
    b"rpc_pipefs".split()
)
"""File systems that ask no server.  overlay asks one if a directory below it does."""

_INTERNAL = (b"pipe:[", b"socket:[", b"anon_inode:", b"/memfd:", b"/anon_hugepage", b"/SYSV")
"""How the links of files in file systems begin that the kernel mounts for itself."""


def served_file(pid: int, local: Container[bytes] = LOCAL) -> str:
    """The file system of an open file of the process that may ask a server; empty if there is none.

    ESRCH, FormatError.
    """
    # A process in a container may have files from outside of it.
    kinds = {mount.number: mount.kind for each in ("self", pid) for mount in mounts_of(each)}
    for name in os.listdir(f"/proc/{pid}/fd"):
        if int(name) >= _COPIED or os.readlink(f"/proc/{pid}/fd/{name}".encode()).startswith(
            _INTERNAL
        ):
            continue
        info = task_status.fdinfo(pid, name)
        kind = kinds.get(int(info["mnt_id"]), b"a file system that is not shown")
        if kind not in local:
            return kind.decode(errors="replace")
    return ""

"""A file descriptor that may be passed to another process (unix(7), SCM_RIGHTS)."""

import os


class OpenFile:
    """Owns a file descriptor, and closes it when nobody refers to it any more.

    There is no close(): a reader in another thread may be in a read(2), and another file soon gets
    the number of a closed file descriptor.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number

    def __del__(self) -> None:
        os.close(self.number)

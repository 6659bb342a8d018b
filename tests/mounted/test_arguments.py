"""Whatever the command line is given, the answer is one clear line, never a traceback."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import Mount
from tests.mounted.conftest import assert_refused, gcorefs


@contextlib.contextmanager
def mounted_at(path: bytes) -> Iterator[None]:
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize(
    "name", [b"a\rb\rc", b"a\nb", b"a b", b"\\040", b"\xff", b"#", b"\x85", b"\x1c"]
)
def test_the_name_of_another_s_mount_misleads_nobody(unmounted: Mount, name: bytes) -> None:
    with mounted_at(os.path.join(os.fsencode(unmounted.path.parent), name)):
        assert_refused(gcorefs("umount", unmounted.path), "no gcorefs is mounted there")
        unmounted.make()
        assert gcorefs("umount", unmounted.path).returncode == 0

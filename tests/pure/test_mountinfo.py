"""The list of mounts, with names that are meant to mislead a reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.mount.mountpoints import MountError, mounts_in

# A path may have any byte but NUL.
paths = st.one_of(
    st.sampled_from(
        [b"/a b", b"/a\nb", b"/a\rb", b"/\\040", b"/#", b"/-", b"/ - tmpfs x", b"/\xff"]
    ),
    st.binary(max_size=20).map(lambda name: b"/" + name.replace(b"\0", b"")),
)


def shown(path: bytes) -> bytes:
    # fs/proc_namespace.c, show_mountinfo and mangle.
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes((byte,)) for byte in path)


def line(path: bytes, kind: bytes, optional: bytes = b"shared:1 ") -> bytes:
    return b"36 35 98:0 / %s rw,noatime %s- %s source rw\n" % (shown(path), optional, kind)


@given(st.lists(st.tuples(paths, st.sampled_from([b"tmpfs", b"fuse.gcorefs", b"-"]))), paths)
def test_a_mount_is_found_by_its_very_name(mounts: list[tuple[bytes, bytes]], other: bytes) -> None:
    text = b"".join(line(path, kind) for path, kind in mounts)
    on_top = dict(mounts)
    for path in (*on_top, other):
        kind = on_top.get(path)
        assert mounts_in(text).get(path) == (kind and kind.decode())


@pytest.mark.parametrize("optional", [b"", b"shared:1 ", b"shared:1 master:2 "])
def test_optional_fields_move_nothing(optional: bytes) -> None:
    assert mounts_in(line(b"/x", b"tmpfs", optional)).get(b"/x") == "tmpfs"


@pytest.mark.parametrize("text", [b"x", b"36 35 98:0 / /x rw", b"36 35 98:0 / /x rw -", b"\r\n"])
def test_another_text_is_refused(text: bytes) -> None:
    with pytest.raises(MountError, match="unexpected text in /proc/self/mountinfo"):
        mounts_in(text)

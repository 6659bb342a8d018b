"""Debian's arm64: its guests have a Debian of their own, which is made on this machine."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

from tests.vm.kernels import mirror
from tests.vm.machines import Machine

_TREE = Path(__file__).resolve().parents[2]
_RELEASE = "bookworm"
# The packages of `make run`, and the tools that the tests use.  Left out: what is large and takes
# an emulator long to set up.
_PACKAGES = (
    "attr", "binutils", "busybox-static", "ca-certificates", "cpio", "elfutils", "file", "fuse3",
    "gcc", "gdb", "iproute2", "kmod", "libc6-dev", "libfuse3-dev", "make", "pkg-config", "procps",
    "python3", "python3-dev", "python3-venv", "strace",
)  # fmt: skip
# Of the group "dev" in pyproject.toml: what the tests of a guest import.
_TEST_MODULES = ("hypothesis", "pytest", "pytest-timeout", "pytest-trio", "pytest-xdist")
_COMPILED = ("pyfuse3", "sdnotify")
"""They have no wheels for arm64."""
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_EMULATOR = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")


def _root(cache: Path) -> Path:
    """Made once, in about 20 minutes.  The tree in it is that of now."""
    root = cache / f"root-arm64-{_RELEASE}"
    tree = root / _TREE.relative_to("/")
    if not (root / ".complete").exists():
        with _Emulated():
            _install(root)
            _copy_tree(tree)
            _make_venv(root, cache / "wheels-arm64")
        (root / ".complete").touch()
    _copy_tree(tree)
    return root


class _Emulated:
    """The kernel runs programs for arm64 with an emulator (binfmt_misc), until this ends."""

    def __enter__(self) -> None:
        self._is_mounted = (_BINFMT / "register").exists()
        if not self._is_mounted:
            _run("mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT)
        self._entry = _BINFMT / "qemu-aarch64"
        self._is_registered = self._entry.exists()
        if not self._is_registered:
            (_BINFMT / "register").write_text(_EMULATOR.read_text())

    def __exit__(self, *_: object) -> None:
        if not self._is_registered:
            self._entry.write_text("-1")
        if not self._is_mounted:
            _run("umount", _BINFMT)


def _install(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    # debootstrap knows nothing of virtual packages, so the rest comes with apt.
    options = ("--arch=arm64", "--foreign", "--variant=minbase")
    _run("debootstrap", *options, _RELEASE, root, mirror())
    _run("chroot", root, "/debootstrap/debootstrap", "--second-stage")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "etc/apt/sources.list").write_text(f"deb {mirror()} {_RELEASE} main\n")
    _run("chroot", root, "apt-get", "-q", "update")
    install = ("apt-get", "-qq", "install", "-y", "--no-install-recommends", *_PACKAGES)
    _run("chroot", root, *install, env={"DEBIAN_FRONTEND": "noninteractive"})


def _copy_tree(tree: Path) -> None:
    """To the same path there."""
    _run(_TREE / "setup/copy-tree", tree)


def _make_venv(root: Path, wheels: Path) -> None:
    """Fetched here and installed there, because an emulated pip is slow.  pyfuse3 is compiled."""
    python = _TREE / ".venv/bin/python"
    constraints = ("--constraint", _TREE / "setup/constraints.txt")
    fetch = (python, "-m", "pip", "download", "--quiet", "--dest", wheels, *constraints)
    names = ("manylinux_2_17", "manylinux2014", "manylinux_2_28")
    platforms = [f"--platform={name}_aarch64" for name in names]
    target = ("--only-binary=:all:", "--python-version=3.11", *platforms, "--platform=any")
    _run(*fetch, *target, *_requirements(), *_TEST_MODULES, "Cython", "setuptools", "wheel")
    _run(*fetch, "--no-deps", "setuptools_scm", "vcs_versioning", "typing_extensions")
    _run(*fetch, "--no-deps", "--no-binary=:all:", "--no-build-isolation", *_COMPILED)
    inside = root / "wheels"
    shutil.copytree(wheels, inside, dirs_exist_ok=True)
    tree = str(_TREE)
    _run("chroot", root, "python3", "-m", "venv", f"{tree}/.venv")
    offline = ("--no-index", "--find-links=/wheels")
    pip = (f"{tree}/.venv/bin/python", "-m", "pip", "install", "--quiet", *offline)
    _run("chroot", root, *pip, "--upgrade", "Cython", "setuptools", "setuptools_scm", "wheel")
    _run("chroot", root, *pip, *_requirements(), *_TEST_MODULES)
    _run("chroot", root, *pip, "--no-build-isolation", *_COMPILED)
    _run("chroot", root, *pip, "--no-build-isolation", "--no-deps", "--editable", tree)
    shutil.rmtree(inside)


def _requirements() -> list[str]:
    """What gcorefs itself needs, but for the modules that are compiled."""
    with (_TREE / "pyproject.toml").open("rb") as file:
        names = tomllib.load(file)["project"]["dependencies"]
    return [name for name in names if not name.startswith(_COMPILED)]


def _run(*words: object, env: dict[str, str] | None = None) -> None:
    command = [str(word) for word in words]
    # The root has no folder for temporary files but /tmp.
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": "/tmp", **(env or {})})


MACHINE = Machine(
    debian="arm64",
    uname="aarch64",
    qemu=("qemu-system-aarch64", "-machine", "virt"),
    console="ttyAMA0",
    # The architecture's own cipher for PAC takes an emulator half of its time.
    emulated_cpu="max,pauth-impdef=on",
    root=_root,
)

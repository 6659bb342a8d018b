"""The initramfs of a guest: busybox, and the modules that the kernel needs to get at its root."""

import gzip
import lzma
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.vm.kernels import Kernel

_INIT = Path(__file__).with_name("init")
_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "virtio_blk", "ext4", "overlay", "virtio_rng")


def initramfs(kernel: Kernel, root: Path) -> Path:
    """Made once, and again if `init` or this module has changed.

    `root`: the root of the guest, which has busybox.
    """
    path = kernel.folder / "initramfs"
    inputs = max(each.stat().st_mtime for each in (_INIT, Path(__file__)))
    if path.exists() and path.stat().st_mtime > inputs:
        return path
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _fill(folder, kernel, root)
        names = "\n".join(str(each.relative_to(folder)) for each in sorted(folder.rglob("*")))
        archive = subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"],
            input=names.encode(), stdout=subprocess.PIPE, check=True, cwd=folder,
        ).stdout  # fmt: skip
    path.write_bytes(gzip.compress(archive, 1))
    return path


def _fill(folder: Path, kernel: Kernel, root: Path) -> None:
    (folder / "bin").mkdir()
    busybox = next(
        path for name in ("bin", "usr/bin") if (path := root / name / "busybox").exists()
    )
    shutil.copy(busybox, folder / "bin/busybox")
    for library in _libraries(busybox):
        (folder / library.parent.relative_to("/")).mkdir(parents=True, exist_ok=True)
        shutil.copy(library, folder / library.relative_to("/"))
    (folder / "modules").mkdir()
    # In the order in which they must be loaded.
    for number, module in enumerate(dict.fromkeys(_modules(kernel))):
        (folder / f"modules/{number:03}.ko").write_bytes(_unpacked(module))
    shutil.copy(_INIT, folder / "init")
    (folder / "init").chmod(0o755)


def _libraries(program: Path) -> list[Path]:
    """The shared libraries of a program, and its dynamic linker; none if it is static."""
    said = subprocess.run(
        ["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", said)]


def _modules(kernel: Kernel) -> Iterator[Path]:
    base = kernel.modules.parent.parent
    for name in _MODULES:
        command = ["modprobe", "-d", str(base), "-S", kernel.release, "--show-depends", name]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        # "builtin" is the other answer.
        yield from (Path(path) for path in re.findall(r"^insmod (\S+)", said, re.MULTILINE))


def _unpacked(module: Path) -> bytes:
    if module.suffix == ".xz":
        return lzma.decompress(module.read_bytes())
    return module.read_bytes()

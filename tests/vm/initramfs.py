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


def initramfs(kernel: Kernel) -> Path:
    """Made once, and again if `init` or this module has changed."""
    path = kernel.folder / "initramfs"
    inputs = max(each.stat().st_mtime for each in (_INIT, Path(__file__)))
    if path.exists() and path.stat().st_mtime > inputs:
        return path
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _fill(root, kernel)
        names = "\n".join(str(each.relative_to(root)) for each in sorted(root.rglob("*")))
        archive = subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"],
            input=names.encode(), stdout=subprocess.PIPE, check=True, cwd=root,
        ).stdout  # fmt: skip
    path.write_bytes(gzip.compress(archive, 1))
    return path


def _fill(root: Path, kernel: Kernel) -> None:
    (root / "bin").mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin/busybox")
    for library in _libraries(busybox):
        (root / library.parent.relative_to("/")).mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library.relative_to("/"))
    (root / "modules").mkdir()
    # In the order in which they must be loaded.
    for number, module in enumerate(dict.fromkeys(_modules(kernel))):
        (root / f"modules/{number:03}.ko").write_bytes(_unpacked(module))
    shutil.copy(_INIT, root / "init")
    (root / "init").chmod(0o755)


def _libraries(program: str) -> list[Path]:
    """The shared libraries of a program, and its dynamic linker; none if it is static."""
    command = ["ldd", program]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
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

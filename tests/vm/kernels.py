"""Debian's kernels, fetched with apt from the mirror that this machine uses.

apt has lists of its own here, with all releases that Debian supports.  Its other settings are those
of the machine: proxy, keys, certificates.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.machines import Machine

RELEASES = ("bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid")
NEWEST = "newest"
_A_DAY = 24 * 3600


@dataclass(frozen=True)
class Kernel:
    folder: Path
    """Where its packages are unpacked."""
    release: str
    """As uname(2) says it."""

    @property
    def image(self) -> Path:
        # Since Debian's 7.x, packages have it in /usr/lib/modules.
        return next(path for path in sorted(self.folder.rglob("vmlinuz*")) if path.is_file())

    @property
    def modules(self) -> Path:
        """Holds a folder with the modules of that release."""
        return _modules(self.folder)


def kernel(wanted: str, machine: Machine, cache: Path) -> Kernel:
    """A kernel by the first numbers of its version ("6.1"), or the newest.  Fetched once."""
    folder = cache / f"{machine.debian}-{wanted}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        _Apt(machine, cache / "apt").unpack(wanted, part)
        part.rename(folder)
    return Kernel(folder, next(_modules(folder).iterdir()).name)


def _modules(folder: Path) -> Path:
    # /lib is a link to /usr/lib in Debian, but not in all its packages.
    return next(path for name in ("lib", "usr/lib") if (path := folder / name / "modules").is_dir())


class _Apt:
    def __init__(self, machine: Machine, folder: Path) -> None:
        self._machine = machine
        lists, archives = folder / "lists", folder / "archives"
        for each in (lists, archives):
            (each / "partial").mkdir(parents=True, exist_ok=True)
        sources = folder / "sources.list"
        source = mirror()
        sources.write_text(
            "".join(f"deb [arch={machine.debian}] {source} {name} main\n" for name in RELEASES)
        )
        settings = (
            f"APT::Architecture={machine.debian}",
            f"APT::Architectures={machine.debian}",
            "APT::Sandbox::User=root",  # the cache may be in a folder that only we can reach
            f"Dir::Cache={folder}",
            f"Dir::Etc::SourceList={sources}",
            "Dir::Etc::SourceParts=-",
            f"Dir::State::Lists={lists}",
        )
        self._options = [word for setting in settings for word in ("-o", setting)]
        own = lists.glob(f"*binary-{machine.debian}_Packages*")
        newest = max((path.stat().st_mtime for path in own), default=0)
        if newest < time.time() - _A_DAY:
            self._run("apt-get", "-qq", "update")

    def _run(self, program: str, *words: str, cwd: Path | None = None) -> str:
        command = [program, *self._options, *words]
        return subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd, timeout=900
        ).stdout

    def unpack(self, wanted: str, folder: Path) -> None:
        images = self._run("apt-cache", "pkgnames", "linux-image-").split()
        package = package_of(wanted, self._machine.debian, images)
        release = package.removeprefix("linux-image-")
        # Debian's newest kernels are in several packages, and linux-image only depends on them.
        # linux-base has the list of modules that are built in.
        names = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")] + [package]
        known = self._run("apt-cache", "pkgnames", "linux-").split()
        folder.mkdir(parents=True)
        for name in names:
            if name in known:
                self._run("apt-get", "-qq", "download", name, cwd=folder)
        for path in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", path, folder], check=True)
            path.unlink()
        # modules.dep is made when a kernel is installed.  depmod wants the modules below /lib.
        base = _modules(folder).parent.parent
        subprocess.run(["depmod", "-b", base, release], check=True, stderr=subprocess.DEVNULL)


def package_of(wanted: str, debian: str, names: Iterable[str]) -> str:
    """The newest package among `names` that has the wanted kernel.  LookupError."""
    version = r"\d+" if wanted == NEWEST else re.escape(wanted)
    # Not those for clouds, for real time and with debugging symbols, which have one word more.
    pattern = re.compile(rf"linux-image-{version}[.+][0-9a-z.+]*(-\d+)?-{debian}")
    found = [name for name in names if pattern.fullmatch(name)]
    if not found:
        raise LookupError(f"Debian has no kernel {wanted} for {debian}")
    return max(found, key=_numbers)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def mirror() -> str:
    """The mirror from which this machine gets its Debian."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Component: main"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    mirrors = [line for line in lines if line.rstrip("/").endswith("/debian")]
    if not mirrors:
        raise LookupError(f"no mirror of Debian among {lines}")
    return mirrors[0]

"""One run of a guest."""

import contextlib
import fcntl
import itertools
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.initramfs import initramfs
from tests.vm.kernels import Kernel
from tests.vm.machines import Machine

_GUEST = Path(__file__).with_name("guest")
_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START = 30
"""Seconds in which a kernel starts if it starts at all.  It takes one."""
_START_AND_END = 600
"""Seconds that a guest may take beside its command.  An emulated one that shares its processor with
a dozen others has needed 400 to start, and it says what failed at its end."""
NO_STATUS = 125
"""The status of a run whose guest ended without one."""


@dataclass(frozen=True)
class Settings:
    cpu: str
    """A model of qemu, empty: all that the accelerator can do."""
    cpus: int
    memory: int
    """MiB."""
    append: str
    """More options of the kernel."""
    cgroups: str
    limit: int
    """Seconds that the command may take."""


class Guest:
    def __init__(self, machine: Machine, kernel: Kernel, settings: Settings, cache: Path) -> None:
        self._machine = machine
        self._kernel = kernel
        self._settings = settings
        self._out = cache / f"out-{kernel.folder.name}"
        self._root = machine.root(cache)
        self._initramfs = initramfs(kernel, self._root)

    def run(self, command: Sequence[str], cwd: Path) -> int:
        """Returns the status of the command in the guest.  124: it took too long (timeout(1))."""
        with _own_folder(self._out) as out:
            return self._run(command, cwd, out)

    def _run(self, command: Sequence[str], cwd: Path, out: Path) -> int:
        """`out`: all that the guest gives to the host and gets from it."""
        status = out / "status"
        status.unlink(missing_ok=True)
        (out / "guest").write_bytes(_GUEST.read_bytes())
        (out / "command").write_text(f"cd {shlex.quote(str(cwd))} && {shlex.join(command)}\n")
        (out / "settings").write_text(
            f"VM_CGROUPS={self._settings.cgroups}\n"
            f"VM_LIMIT={self._settings.limit}\n"
            f"VM_TREE={shlex.quote(str(cwd))}\n"
        )
        with _scratch_disk(out) as disk:
            process = self._start(
                "-m", str(self._settings.memory), "-smp", str(self._settings.cpus),
                *_share("root", self._root, ",readonly=on"),
                *_share("modules", self._kernel.modules, ",readonly=on"),
                *_share("out", out),
                "-drive", f"file={disk},format=raw,if=none,id=disk,cache=unsafe,discard=unmap",
                "-device", "virtio-blk-pci,drive=disk",
                accelerator=self._accelerator(), append=self._settings.append,
            )  # fmt: skip
            ended = _ends(process, self._settings.limit + _START_AND_END)
        if not ended:
            print("vm: the guest hangs, and was ended", flush=True)
        return int(status.read_text()) if status.exists() else NO_STATUS

    def _accelerator(self) -> str:
        """KVM if this kernel starts with it.  It is asked once in each boot of the host."""
        boot = _BOOT_ID.read_text().strip()
        known = self._kernel.folder / f"accelerator.{boot}"
        if not known.exists():
            may_start = _KVM.exists() and os.uname().machine == self._machine.uname
            known.write_text("kvm" if may_start and self._starts("kvm") else "tcg")
        return known.read_text()

    def _starts(self, accelerator: str) -> bool:
        process = self._start(
            "-m", "512", accelerator=accelerator, append="vm.probe", output=subprocess.PIPE
        )
        ended = _ends(process, _START)
        assert process.stdout is not None
        said: bytes = process.stdout.read()
        return ended and b"vm: the kernel starts" in said

    def _start(
        self, *words: str, accelerator: str, append: str, output: int | None = None
    ) -> subprocess.Popen[bytes]:
        cpu = self._settings.cpu or ("host" if accelerator == "kvm" else self._machine.emulated_cpu)
        wanted = {"kvm": "kvm", "tcg": "tcg,thread=multi,tb-size=1024"}[accelerator]
        options = f"console={self._machine.console} panic=-1 quiet mitigations=off"
        command = [
            # If we are killed, so is the guest.
            "setpriv", "--pdeathsig=KILL",
            *self._machine.qemu, "-accel", wanted, "-cpu", cpu,
            "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none",
            "-no-reboot", "-serial", "stdio",
            "-kernel", str(self._kernel.image), "-initrd", str(self._initramfs),
            "-append", f"{options} {self._machine.append} {append}",
            "-device", "virtio-rng-pci",
            *words,
        ]  # fmt: skip
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a guest to end, and end it after that time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    finally:
        process.kill()
        process.wait()
    return True


def _share(tag: str, path: Path, more: str = "") -> tuple[str, ...]:
    """A folder that the guest sees through 9p.  With "remap" inode numbers of several file systems
    in it stay different."""
    options = f"local,id={tag},path={path},security_model=none,multidevs=remap{more}"
    return "-fsdev", options, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"


@contextlib.contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    """The folder, or one beside it while another guest uses it."""
    with contextlib.ExitStack() as stack:
        for number in itertools.count(1):
            folder = path if number == 1 else path.with_name(f"{path.name}.{number}")
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / "lock").open("wb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder
            return


@contextlib.contextmanager
def _scratch_disk(folder: Path) -> Iterator[Path]:
    """A sparse disk for what the guest writes."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="scratch.") as file:
        os.truncate(file.name, 16 << 30)
        options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        subprocess.run(["mkfs.ext4", "-q", "-E", options, file.name], check=True)
        yield Path(file.name)

"""Packages of this tree.  `make` builds them, as for a user.

`make test-packages` runs these tests on a fresh Debian, with the packages that were built in one.
"""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]


def make(*words: str) -> None:
    """Run make in the tree."""
    result = subprocess.run(
        ["make", "-C", TREE, *words], capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def _make_once() -> None:
    """Make the packages, once for all workers of a run."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "")
    made = TREE / "build" / "made-for-run"
    made.parent.mkdir(exist_ok=True)
    with (TREE / "build" / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (run and made.exists() and made.read_text() == run):
            make("deb", "rpm")
            made.write_text(run)


@pytest.fixture(scope="session")
def packages() -> dict[str, Path]:
    """The package of each kind."""
    given = os.environ.get("GCOREFS_PACKAGES")
    if not given:
        _make_once()
    folder = Path(given).resolve() if given else TREE / "build" / "package"
    found = {kind: [*folder.glob(f"gcorefs*.{kind}")] for kind in ("deb", "rpm")}
    return {kind: path for kind, (path,) in found.items()}


@pytest.fixture(scope="session")
def lower() -> Path:
    """The root on which packages are installed."""
    return Path(os.environ.get("GCOREFS_CLEAN_ROOT", "/")).resolve()


@pytest.fixture(scope="session")
def given(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, for a machine that is to install them."""
    folder = tmp_path_factory.mktemp("given")
    for kind, package in packages.items():
        (folder / f"gcorefs.{kind}").write_bytes(package.read_bytes())
    folder.chmod(0o755)
    return folder

"""A process that shares its memory with a parent: however its core is taken, nothing is copied."""

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.families import MIB, Family
from tests.mounted.conftest import eventually, is_free
from tests.readers.corefile import Core

SIZE = 64 * MIB
Spawn = Callable[..., Target]

KEYS = ("Pss_Anon", "Shared_Dirty", "Private_Dirty", "Anonymous", "Swap")


def spent(family: Family) -> list[dict[str, int]]:
    """All private memory of each of them, in kB.  None of it may change."""
    found = []
    for pid in family.pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")
        pairs = (line.split(":") for line in lines if line.endswith(" kB"))
        sizes = Counter({key: int(text.split()[0]) for key, text in pairs})
        found.append({key: sizes[key] for key in KEYS})
    return found


@pytest.fixture
def family(spawn: Spawn) -> Family:
    found = Family(spawn, "small", "keeps", SIZE)
    # From now on it has all the memory that it needs to answer.
    found.target.ask("parent")
    found.target.ask("pages")
    return found


def check(family: Family, core: Path, before: list[dict[str, int]]) -> None:
    eventually(lambda: is_free(family.target.pid))
    assert spent(family) == before
    assert before[0]["Shared_Dirty"] << 10 >= SIZE
    # Nearly all shared memory is in the range of the test.
    assert sum(each["Pss_Anon"] for each in before) << 10 < SIZE + MIB
    assert Core(core).read(family.start, family.end) == family.expected()
    assert family.target.ask("parent") == {"intact": True}


def copy_out(path: Path, core: Path) -> None:
    with core.open("wb") as file:
        subprocess.run(["cat", path], stdout=file, check=True, timeout=60)


def test_cat_of_the_mount(family: Family, mount: Mount, tmp_path: Path) -> None:
    before = spent(family)
    copy_out(mount / family.target.pid, tmp_path / "core")
    check(family, tmp_path / "core", before)


def test_cat_of_a_mount_that_copies(family: Family, unmounted: Mount, tmp_path: Path) -> None:
    unmounted.make("hold=copy")
    before = spent(family)
    copy_out(unmounted / family.target.pid, tmp_path / "core")
    eventually(lambda: "copied" in unmounted.log.read_text())
    check(family, tmp_path / "core", before)


@pytest.mark.parametrize("hold", ["stop", "copy"])
def test_dump(family: Family, hold: str, tmp_path: Path) -> None:
    before = spent(family)
    command = [GCOREFS, "dump", str(family.target.pid), "--hold", hold, "-o", tmp_path / "core"]
    subprocess.run(text_of(command), check=True, timeout=60)
    check(family, tmp_path / "core", before)


def test_the_parents_core(family: Family, mount: Mount, tmp_path: Path) -> None:
    before = spent(family)
    copy_out(mount / family.pids[1], tmp_path / "core")
    check(family, tmp_path / "core", before)


def test_random_pages_of_the_mount(family: Family, mount: Mount, tmp_path: Path) -> None:
    before = spent(family)
    command = ["dd", f"if={mount / family.target.pid}", f"of={tmp_path / 'core'}", "bs=12345"]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    check(family, tmp_path / "core", before)

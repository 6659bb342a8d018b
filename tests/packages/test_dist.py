"""Wheel and sdist: two builds are equal, and they work without the tree."""

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs import __version__
from tests.conftest import Target
from tests.packages.conftest import TREE


def is_ours(path: Path) -> bool:
    """Something of the repository, at the top of the tree: the others are hidden or made."""
    name = path.name
    return not name.startswith((".", "core")) and name != "build" and path.suffix != ".egg-info"


def files() -> set[str]:
    """The files of the repository, without git: the tree need not have it."""
    tops = [path for path in TREE.iterdir() if is_ours(path)]
    every = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
    kept = [path for path in every if "__pycache__" not in path.parts and path.suffix != ".o"]
    return {str(path.relative_to(TREE)) for path in kept}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What two trees, at two places, build of one commit."""
    folders = []
    for place in ("one", "another/much/longer/place"):
        tree = tmp_path_factory.mktemp("dist") / place
        objects = [str(path.relative_to(TREE)) for path in TREE.glob("gcorefs/sources/bpf/*.o")]
        for name in (*files(), *objects):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TREE / name, tree / name)
        shutil.copy(TREE / ".gitignore", tree)
        build(tree, "--sdist", "--wheel")
        folders.append(tree / "dist")
    return folders


def build(tree: Path, *words: str) -> None:
    python = TREE / ".venv/bin/python"
    result = subprocess.run(
        [python, "-m", "build", "--no-isolation", *words, tree],
        env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def the(kind: str, folder: Path) -> Path:
    (found,) = folder.glob(f"gcorefs-{__version__}*{kind}")
    return found


@pytest.mark.parametrize("kind", [".whl", ".tar.gz"])
def test_two_builds_are_equal(built: list[Path], kind: str) -> None:
    one, another = (the(kind, folder).read_bytes() for folder in built)
    assert one == another


def test_the_wheel_has_the_package_and_no_more(built: list[Path]) -> None:
    with zipfile.ZipFile(the(".whl", built[0])) as wheel:
        names = set(wheel.namelist())
    about = f"gcorefs-{__version__}.dist-info"
    others = {name for name in names if not name.startswith(("gcorefs/", f"{about}/"))}
    assert others == set()
    ours = [path for path in (TREE / "gcorefs").rglob("*") if path.is_file()]
    ours = [path for path in ours if "__pycache__" not in path.parts]
    assert {name for name in names if name.startswith("gcorefs/")} == {
        str(path.relative_to(TREE)) for path in ours
    }


def test_the_sdist_has_the_repository(built: list[Path]) -> None:
    with tarfile.open(the(".tar.gz", built[0])) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        assert {(each.uid, each.gid, each.mtime) for each in sdist} == {(0, 0, 1700000000)}
    assert names - {"PKG-INFO", ".gitignore"} == files()


def test_the_sdist_makes_the_wheel_without_bpf(built: list[Path], tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", the(".tar.gz", built[0]), "-C", tmp_path], check=True)
    tree = tmp_path / f"gcorefs-{__version__}"
    build(tree, "--wheel")
    wheels = [zipfile.ZipFile(the(".whl", folder)) for folder in (built[0], tree / "dist")]
    ours, theirs = ({name: wheel.read(name) for name in wheel.namelist()} for wheel in wheels)
    lacks = ours.keys() - theirs.keys()
    assert len(lacks) == 2
    assert all(name.endswith(".bpf.o") for name in lacks)
    assert [name for name in theirs if theirs[name] != ours[name]] == [
        f"gcorefs-{__version__}.dist-info/RECORD"
    ]


def test_the_wheel_works_without_the_tree(
    built: list[Path], tmp_path: Path, spawn: Callable[..., Target]
) -> None:
    venv = tmp_path / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", venv], check=True)
    install: list[str | Path] = [venv / "bin/pip", "install", "--quiet", the(".whl", built[0])]
    subprocess.run(install, cwd="/", check=True)
    gcorefs = venv / "bin/gcorefs"

    def says(*words: object) -> str:
        command = [str(word) for word in (gcorefs, *words)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert says("--version") == f"gcorefs, version {__version__}\n"
    target = spawn("threads", 2)
    says("dump", target.pid, "-o", "core")
    facts = json.loads(says("info", "--json", "core"))
    assert (facts["missing"], facts["size"]) == (0, (tmp_path / "core").stat().st_size)
    assert "pong" in target.ask("ping")

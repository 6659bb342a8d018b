"""What is in the packages, without installing them."""

import gzip
import os
import re
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from gcorefs import __version__
from tests.packages.conftest import TREE, make

HOME = "usr/lib/gcorefs"


def output(*command: object) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.decode()


def unpack(kind: str, package: Path, to: Path) -> Path:
    if kind == "deb":
        output("dpkg-deb", "-x", package, to)
    else:
        with tempfile.TemporaryFile() as archive:
            subprocess.run(["rpm2cpio", package], stdout=archive, check=True)
            archive.seek(0)
            subprocess.run(["cpio", "-idm", "--quiet"], stdin=archive, cwd=to, check=True)
    return to


@pytest.fixture(scope="module", params=["deb", "rpm"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def root(kind: str, packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(kind, packages[kind], tmp_path_factory.mktemp(kind))


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


def test_it_has_what_it_is_for(kind: str, root: Path) -> None:
    names = [
        "usr/bin/gcorefs", "usr/bin/gcorefs-gcore", "usr/sbin/mount.gcorefs",
        "usr/sbin/mount.fuse.gcorefs", "usr/lib/systemd/system/gcorefs.service",
        "usr/share/bash-completion/completions/gcorefs",
        "usr/share/zsh/vendor-completions/_gcorefs" if kind == "deb" else
        "usr/share/zsh/site-functions/_gcorefs",
        "usr/share/fish/vendor_completions.d/gcorefs.fish",
        "usr/share/man/man1/gcorefs.1.gz", "usr/share/man/man1/gcorefs-gcore.1.gz",
        "usr/share/man/man8/gcorefs.8.gz", "usr/share/man/man8/mount.gcorefs.8.gz",
        "usr/share/doc/gcorefs/copyright", "usr/share/doc/gcorefs/changelog.gz",
        "usr/share/doc/gcorefs/examples/precopy.conf", "etc/gcorefs.toml",
    ]  # fmt: skip
    assert [name for name in names if not (root / name).exists()] == []
    for name in ("obstore", "prometheus_client"):  # for --to and --metrics
        assert [*root.glob(f"{HOME}/lib/python*/site-packages/{name}/__init__.py")]
    for name in ("mappings", "registers"):
        (found,) = root.glob(f"{HOME}/lib/python*/site-packages/gcorefs/sources/bpf/{name}.bpf.o")
        assert found.read_bytes()[:4] == b"\x7fELF"


def test_it_has_no_path_of_where_it_was_built(root: Path) -> None:
    places = [os.fsencode(TREE), b"/srv/gcorefs", b"/pip-", b"build/package/root"]
    named = {path for path in files(root) if any(each in path.read_bytes() for each in places)}
    assert named == set()


def test_links_stay_in_it_but_for_the_interpreter(root: Path) -> None:
    links = {path: os.readlink(path) for path in root.rglob("*") if path.is_symlink()}
    python = links.pop(root / HOME / "bin/python3")
    assert re.fullmatch(r"\.\./\.\./\.\./bin/python3\.\d+", python)
    for path, target in links.items():
        assert not target.startswith("/")
        assert path.resolve().is_relative_to(root)
        assert path.exists()


def test_it_has_an_environment_of_its_own(root: Path) -> None:
    config = (root / HOME / "pyvenv.cfg").read_text()
    assert "home = /usr/bin\n" in config
    assert "include-system-site-packages = false\n" in config
    programs = [*(root / "usr/bin").iterdir(), root / "usr/sbin/mount.gcorefs"]
    assert {path.read_text().splitlines()[0] for path in programs} == {f"#!/{HOME}/bin/python3 -I"}
    # Every module is compiled: nobody but root could write that later.
    lib = root / HOME / "lib"
    sources = set(lib.rglob("*.py"))
    compiled = {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in lib.rglob("*.pyc")}
    assert sources == compiled


def test_only_root_may_write_to_it(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or path == root:
            continue
        assert not mode & 0o022, path
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path
        assert mode & 0o044 == 0o044, path


def test_the_unit_runs_the_program_that_is_in_it(root: Path) -> None:
    unit = (root / "usr/lib/systemd/system/gcorefs.service").read_text()
    ours = (TREE / "systemd/gcorefs.service").read_text()
    assert unit == ours.replace("/usr/local/bin/gcorefs", "/usr/bin/gcorefs")
    assert "ExecStart=/usr/bin/gcorefs mount" in unit


@pytest.mark.parametrize(
    ("page", "word"),
    [
        ("man1/gcorefs.1", "stacks"),
        ("man8/gcorefs.8", "idle_timeout"),
        ("man8/mount.gcorefs.8", "fstab"),
        ("man1/gcorefs-gcore.1", "gcore"),
    ],
)
def test_the_man_pages_are_the_manual(root: Path, page: str, word: str) -> None:
    text = gzip.decompress((root / "usr/share/man" / f"{page}.gz").read_bytes()).decode()
    assert text.count(".TH ") == 1
    assert word in text


def test_licenses_of_all_libraries_are_named(root: Path) -> None:
    text = (root / "usr/share/doc/gcorefs/copyright").read_text()
    (lib,) = (root / HOME / "lib").glob("python*/site-packages")
    names = {folder.name.split("-")[0].lower() for folder in lib.glob("*-info")} - {"gcorefs"}
    named = re.findall(r"site-packages/(\w+)\*\nCopyright: .+\nLicense: (.+)", text)
    assert {name.lower() for name, _ in named} == names
    assert all(0 < len(license) < 80 for _, license in named)


def python_of(root: Path) -> str:
    return Path(os.readlink(root / HOME / "bin/python3")).name


def test_deb_depends_on_the_libraries_of_this_release(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    fields = [output("dpkg-deb", "-f", packages["deb"], name) for name in ("Depends", "Version")]
    depends = fields[0].strip().split(", ")
    root = unpack("deb", packages["deb"], tmp_path)
    assert python_of(root) in depends
    assert "fuse3" in depends
    assert any(re.match(r"libfuse3-\d+ \(>= ", each) for each in depends)
    assert any(each.startswith("libc6 (>= ") for each in depends)
    assert fields[1].startswith(f"{__version__}-1+")
    assert (
        output("dpkg-deb", "-f", packages["deb"], "Architecture").strip()
        == output("dpkg", "--print-architecture").strip()
    )
    assert output("dpkg-deb", "-I", packages["deb"], "conffiles") == "/etc/gcorefs.toml\n"


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_the_scripts_of_deb_are_those_of_the_tree(packages: dict[str, Path], name: str) -> None:
    assert (
        output("dpkg-deb", "-I", packages["deb"], name) == (TREE / "package/deb" / name).read_text()
    )
    output("sh", "-n", TREE / "package/deb" / name)


def test_rpm_tells_what_it_needs_and_does(packages: dict[str, Path], tmp_path: Path) -> None:
    rpm = packages["rpm"]
    root = unpack("rpm", rpm, tmp_path)
    query = output("rpm", "-qp", "--nosignature", "--qf", "%{NAME} %{VERSION} %{LICENSE}", rpm)
    assert query == f"gcorefs {__version__} MIT"
    needs = output("rpm", "-qp", "--nosignature", "--requires", rpm).splitlines()
    assert f"/usr/bin/{python_of(root)}" in needs
    assert "libfuse3.so.3()(64bit)" in needs or "libfuse3.so.4()(64bit)" in needs
    assert output("rpm", "-qp", "--nosignature", "--configfiles", rpm) == "/etc/gcorefs.toml\n"
    scripts = output("rpm", "-qp", "--nosignature", "--scripts", rpm)
    for name in ("post", "preun", "postun"):
        text = (TREE / "package/rpm" / name).read_text()
        assert text.strip() in scripts
        output("sh", "-n", TREE / "package/rpm" / name)


def test_deb_and_rpm_install_the_same(packages: dict[str, Path], tmp_path: Path) -> None:
    trees = []
    for kind in ("deb", "rpm"):
        (tmp_path / kind).mkdir()
        root = unpack(kind, packages[kind], tmp_path / kind)
        trees.append({path.relative_to(root): path.read_bytes() for path in files(root)})
    differing = {str(path) for path in trees[0].keys() ^ trees[1].keys()}
    assert differing == {
        "usr/share/doc/gcorefs/changelog.Debian.gz",
        "usr/share/zsh/vendor-completions/_gcorefs",
        "usr/share/zsh/site-functions/_gcorefs",
    }
    both = trees[0].keys() & trees[1].keys()
    assert all(trees[0][path] == trees[1][path] for path in both)


def test_two_builds_of_the_deb_are_equal() -> None:
    built = []
    for _ in range(2):
        make("deb")
        (package,) = (TREE / "build/package").glob("gcorefs*.deb")
        built.append(package.read_bytes())
    assert built[0] == built[1]

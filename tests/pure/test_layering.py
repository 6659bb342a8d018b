"""Who may import whom: read from the source, nothing is imported.

The folders stand in the order in which a request meets them, and imports run one way.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "gcorefs"

FOLDERS = (
    "errors",
    "steps",
    "tuning",
    "arch",
    "elfcore",
    "option",
    "profiles",
    "profile_file",
    "policy",
    "plan",
    "lifecycle",
    "kernel",
    "process",
    "sources",
    "look",
    "forecast",
    "standstill",
    "gather_memory",
    "gather",
    "hold",
    "core",
    "assemble",
    "forked_child",
    "stopped",
    "worker",
    "telemetry",
    "export",
    "triggers",
    "api",
    "together",
    "readers",
    "bundle",
    "checkup",
    "mount",
    "cli",
)
# The package itself knows its version, __main__ begins each program.
FOLDERLESS = {
    PACKAGE: {f"{PACKAGE}.api"},
    f"{PACKAGE}.__main__": {
        f"{PACKAGE}.cli",
        f"{PACKAGE}.cli.gcore",
        f"{PACKAGE}.cli.mount_gcorefs",
        f"{PACKAGE}.kernel.patient",
    },
}

# What computes and knows no system, no clock and no state of the interpreter.
PURE = {
    "array", "bisect", "collections", "copy", "dataclasses", "enum", "functools", "io", "itertools",
    "json", "math", "operator", "re", "string", "struct", "typing", "zlib",
}  # fmt: skip

# A foreign module and the folders or modules that may import it; nobody else.
RESERVED = {
    "pyfuse3": ("mount",),
    "msgspec": ("option",),
    "trio": ("mount", "cli"),
    "outcome": ("mount",),
    "click": ("cli",),
    "rich": ("cli",),
    "sdnotify": ("cli",),
    "zstandard": ("export",),
    "obstore": ("export.objects",),
    "prometheus_client": ("telemetry.metrics",),
    "elftools": ("elfcore.corefile",),
    "ctypes": ("arch.cpuid", "kernel"),
}

# A name that says nothing gathers everything.
NAMELESS = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = sorted((ROOT / PACKAGE).rglob("*.py"))
TREES = {_name(path): ast.parse(path.read_bytes(), path) for path in PATHS}
MODULES = sorted(set(TREES) - set(FOLDERLESS))


def _imported(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere in it, in functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports do not say whom they mean"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in TREES else node.module


def _ours(module: str) -> set[str]:
    names = set(_imported(TREES[module]))
    return {name for name in names if name.split(".")[0] == PACKAGE} - {module}


def _foreign(module: str) -> set[str]:
    names = {name.split(".")[0] for name in _imported(TREES[module])}
    return names - {PACKAGE}


def _folder(module: str) -> str:
    return module.split(".")[1]


def test_every_module_is_in_a_folder() -> None:
    assert {_folder(module) for module in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("module", FOLDERLESS)
def test_what_is_in_no_folder_imports_next_to_nothing(module: str) -> None:
    assert _ours(module) <= FOLDERLESS[module]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_its_folder_and_those_before_it(module: str) -> None:
    allowed = FOLDERS[: FOLDERS.index(_folder(module)) + 1]
    later = {name for name in _ours(module) - set(FOLDERLESS) if _folder(name) not in allowed}
    assert not later


def test_there_is_no_cycle_between_modules() -> None:
    waiting = {module: _ours(module) - set(FOLDERLESS) for module in MODULES}
    while free := {module for module, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {module: needs for module, needs in waiting.items() if module not in free}
    assert not waiting


@pytest.mark.parametrize("module", [name for name in MODULES if _folder(name) == "elfcore"])
def test_the_format_knows_no_system(module: str) -> None:
    assert _foreign(module) - set(RESERVED) <= PURE


@pytest.mark.parametrize("foreign", RESERVED)
def test_a_foreign_module_stays_in_its_place(foreign: str) -> None:
    importers = {name for name in TREES if foreign in _foreign(name)}
    allowed = tuple(f"{PACKAGE}.{place}" for place in RESERVED[foreign])
    assert importers, f"nobody imports {foreign}: take it off the list"
    outside = {
        name
        for name in importers
        if not any(name == place or name.startswith(f"{place}.") for place in allowed)
    }
    assert not outside


def _taken(module: str, foreign: str) -> set[str]:
    """What a module uses of another that it imports as a whole."""
    return {
        node.attr
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == foreign
    }


@pytest.mark.parametrize("module", [name for name in MODULES if _folder(name) == "elfcore"])
def test_the_format_opens_no_file(module: str) -> None:
    assert _taken(module, "io") <= {"BytesIO", "SEEK_END"}


def test_every_foreign_module_is_python_s_own_or_reserved() -> None:
    foreign = set().union(*map(_foreign, TREES))
    assert foreign - sys.stdlib_module_names <= set(RESERVED)


@pytest.mark.parametrize("module", sorted(TREES))
def test_no_import_hides_from_this_test(module: str) -> None:
    names = {node.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Name)}
    assert not names & {"__import__", "import_module", "exec", "eval"}
    assert "importlib" not in set(_imported(TREES[module]))


def _listed(package: str) -> set[str]:
    """The modules that the docstring of a package lists, one on each line."""
    lines = (ast.get_docstring(TREES[package]) or "").splitlines()
    return {match[1] for line in lines if (match := re.match(r"([a-z0-9_]+) {2,}\S", line))}


PACKAGES = {_name(path) for path in PATHS if path.name == "__init__.py"}


@pytest.mark.parametrize("package", [name for name in sorted(PACKAGES) if _listed(name)])
def test_a_list_of_modules_is_complete(package: str) -> None:
    names = [name.split(".") for name in MODULES if name.startswith(f"{package}.")]
    assert _listed(package) == {name[package.count(".") + 1] for name in names}


@pytest.mark.parametrize("module", sorted(TREES))
def test_a_module_s_name_says_what_is_in_it(module: str) -> None:
    words = {word for part in module.split(".") for word in part.split("_")}
    assert not words & NAMELESS

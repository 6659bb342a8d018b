"""Tests use public names and change no constant: then gcorefs may change what is nobody's business.

A test that needs another value of a constant passes it in, or changes the Tuning
(gcorefs/tuning.py).  A test that needs another kernel replaces public functions.
"""

import ast
import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

DOCUMENTED = {"_exit", "_make", "_replace"}
"""Public all the same: os and typing.NamedTuple document them."""

PATCHES = {"setattr", "delattr", "object"}
"""The last one is unittest.mock.patch.object."""


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def _nodes(source: str) -> Iterator[ast.AST]:
    """The nodes of a program, and of the programs in its strings that know gcorefs."""
    for node in ast.walk(ast.parse(source)):
        yield node
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and "gcorefs" in text:
            with contextlib.suppress(SyntaxError, ValueError):
                yield from _nodes(textwrap.dedent(text))


def _own(nodes: list[ast.AST]) -> set[str]:
    """The methods and attributes that a program itself defines."""
    methods = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    methods |= {node.name for node in nodes if isinstance(node, ast.AsyncFunctionDef)}
    return methods | {attribute.attr for attribute in _changed(nodes)}


def _changed(nodes: list[ast.AST]) -> list[ast.Attribute]:
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    return [each for each in attributes if not isinstance(each.ctx, ast.Load)]


def _is_on_itself(attribute: ast.Attribute) -> bool:
    return isinstance(attribute.value, ast.Name) and attribute.value.id in ("self", "cls")


def _private_names(source: str) -> set[str]:
    """The private names of others that a program uses."""
    nodes = [*_nodes(source)]
    own = _own(nodes)
    found = set(_patched(nodes))
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            found.update(*((node.module or "").split("."), (each.name for each in node.names)))
        elif isinstance(node, ast.Import):
            found.update(part for each in node.names for part in each.name.split("."))
        elif isinstance(node, ast.Attribute) and not (_is_on_itself(node) and node.attr in own):
            found.add(node.attr)
    return set(filter(_is_private, found))


def _patched(nodes: list[ast.AST]) -> Iterator[str]:
    """The attributes that a program replaces by their names."""
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        if name in PATCHES | {"patch"}:
            for argument in node.args[:2]:
                if isinstance(argument, ast.Constant):
                    yield str(argument.value).rpartition(".")[2]


def _constants(source: str) -> set[str]:
    """The constants of others that a program changes."""
    nodes = [*_nodes(source)]
    changed = {each.attr for each in _changed(nodes) if not _is_on_itself(each)}
    return {name for name in changed.union(_patched(nodes)) if name.isupper()}


OTHERS = [path for path in sorted(TESTS.rglob("*.py")) if path != Path(__file__)]
SOURCES = {path.relative_to(TESTS): path.read_text() for path in OTHERS}


def test_no_test_uses_a_private_name() -> None:
    found = {str(path): _private_names(source) for path, source in SOURCES.items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_no_test_changes_a_constant() -> None:
    found = {str(path): _constants(source) for path, source in SOURCES.items()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from gcorefs.mount._held import Held",
        "from gcorefs.mount.held import _held",
        "import gcorefs._held",
        "held._held",
        "self.held._held",
        "class Other(Held):\n    def read(self):\n        return self._held",
        "monkeypatch.setattr(held, '_held', 1)",
        "monkeypatch.setattr('gcorefs.held._held', 1)",
        "mock.patch.object(held, '_held')",
        "mock.patch('gcorefs.held._held')",
        "program(first='from gcorefs import held; held._held = 1')",
    ],
)
def test_a_private_name_is_found(source: str) -> None:
    assert _private_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "monkeypatch.setattr(held, 'MOST', 1)",
        "monkeypatch.setattr('gcorefs.held.MOST', 1)",
        "setattr(held, 'MOST', 1)",
        "mock.patch.object(held, 'MOST', 1)",
        "mock.patch('gcorefs.held.MOST', 1)",
        "held.MOST = 1",
        "held.MOST += 1",
        "program(first='from gcorefs import held; held.MOST = 1')",
    ],
)
def test_a_constant_that_changes_is_found(source: str) -> None:
    assert _constants(source)


@pytest.mark.parametrize(
    "source",
    [
        "monkeypatch.setattr(tasks, 'tids', lambda pid: [])",
        "class Own:\n    def __init__(self):\n        self._mine = self.MINE = 1",
        "os._exit(held.MOST)",
    ],
)
def test_what_a_test_may_do_is_not_found(source: str) -> None:
    assert not _private_names(source) | _constants(source)

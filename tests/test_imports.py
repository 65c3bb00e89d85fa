"""The modules of the package import each other in one direction: no circle, not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "python" / "onepass"

if not PACKAGE.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)


def imported(node: ast.AST, package: str, modules: set[str]) -> Iterator[str]:
    """The modules of ours that a statement imports.

    `from package import name` is an import of the module `package.name` if there is one, not of all that the
    package's own file imports.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)
    elif isinstance(node, ast.ImportFrom):
        parents = package.split(".")
        base = parents[: len(parents) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{origin}.{alias.name}"
            if inner in modules or origin in modules:
                yield inner if inner in modules else origin


def graph(sources: dict[str, tuple[str, str]]) -> dict[str, set[str]]:
    """What each module imports, wherever the statement stands: in a function, or for the type checker alone.

    Args:
        sources: The package and the text of each module.
    """
    modules = set(sources)
    return {
        name: {other for node in ast.walk(ast.parse(text)) for other in imported(node, package, modules)} - {name}
        for name, (package, text) in sources.items()
    }


def package_sources() -> dict[str, tuple[str, str]]:
    sources = {}
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]):  # a stub stands for the native module
        parts = ("onepass", *path.relative_to(PACKAGE).with_suffix("").parts)
        package = ".".join(parts[:-1])
        sources[package if parts[-1] == "__init__" else ".".join(parts)] = (package, path.read_text())
    return sources


def circle(edges: dict[str, set[str]]) -> list[str]:
    """One circle, each module followed by one that it imports and the first repeated; empty if there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_modules_import_each_other_in_one_direction():
    edges = graph(package_sources())
    assert "onepass.optim.adam" in edges["onepass.optim"]
    assert "onepass._core" in edges["onepass._native"]
    assert circle(edges) == []


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ({"a": "import onepass.b", "b": "from onepass import c, x", "c": ""}, []),
        ({"a": "import onepass.b", "b": "def f():\n    from onepass.a import x"}, ["a", "b"]),
        ({"a": "from . import c, b", "b": "if TYPE_CHECKING:\n    from .a import x", "c": ""}, ["a", "b"]),
        ({"a": "from onepass.b import x", "b": "import onepass.c", "c": "import onepass.a"}, ["a", "b", "c"]),
    ],
    ids=["a line", "in a function", "for the type checker", "over three"],
)
def test_circles_are_found(texts, found):
    edges = graph({f"onepass.{name}": ("onepass", text) for name, text in texts.items()})
    ring = circle(edges)
    assert sorted({name.rpartition(".")[2] for name in ring}) == found
    assert all(module in edges[importer] for importer, module in pairwise(ring))

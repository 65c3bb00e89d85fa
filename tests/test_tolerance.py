"""Fixed tolerances stand in tolerance.py, where each has its reason, and nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = [path for path in sorted(TESTS.rglob("*.py")) if path.name != "tolerance.py"]
# What functions of torch, numpy and pytest call them.
KEYWORDS = ("atol", "rtol", "rel", "abs")


def fixed(code: str) -> list[str]:
    """The tolerances in a file's code that are numbers, by line; 0 is none."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            numbers = [part for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
            if any(isinstance(part.value, float) and 0 < part.value < 1 for part in numbers):
                found.append(f"{node.value.lineno}: {node.arg}={ast.unparse(node.value)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_tolerances_have_names(path):
    assert fixed(path.read_text()) == []


def test_a_number_is_found():
    lines = ("close(a, b, rtol=0, atol=1e-6)", "assert a == approx(b, rel=2 * 1e-3)", "close(a, b, **STEPS)")
    assert fixed("\n".join(lines)) == ["1: atol=1e-06", "2: rel=2 * 0.001"]

"""The guide to a new update rule lists what the example, Lion, needs: no file and no line more or less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "adding-a-kernel.md"

if not GUIDE.is_file():
    pytest.skip("needs the source tree", allow_module_level=True)


def steps(title: str) -> list[str]:
    """The numbered steps below a title of the guide."""
    section = GUIDE.read_text().split("## A new update rule")[1].split("\n## ")[0]
    listed = section.split(f"{title}:\n\n")[1].split("\n\n")[0]
    return re.findall(r"^\d+\. (.+)$", listed, re.MULTILINE)


FILES = [re.match(r"`([^`]+)`", step).group(1) for step in steps("New files")]
LINES = [re.fullmatch(r"`([^`]+)`: `([^`]+)`", step).groups() for step in steps("New lines")]


# Programs that choose among the rules; a new rule works without being named in them.
CHOOSING = ("python/onepass/visualize", "python/onepass/cli/visualize.py", "python/onepass/lab")


def sources() -> list[Path]:
    """The files that a package is built of."""
    folders = ("csrc", "cmake", "python/onepass")
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    found = [path for path in found if not str(path.relative_to(ROOT)).startswith(CHOOSING)]
    kinds = (".h", ".cuh", ".cpp", ".cu", ".cmake", ".py", ".pyi")
    return [*(path for path in found if path.suffix in kinds), ROOT / "CMakeLists.txt"]


def test_the_guide_is_as_short_as_it_should_be():
    assert len(FILES) == len(set(FILES)) == 5
    assert len(LINES) == len(set(LINES)) <= 8


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_guide(name):
    assert Path(name).stem == "lion"
    assert re.search(r"\bLion(Options)?\b", (ROOT / name).read_text())


@pytest.mark.parametrize(("name", "line"), LINES)
def test_a_line_of_the_guide(name, line):
    """It stands in the file, by itself: but for what joins the lines of a list."""
    lines = (ROOT / name).read_text().splitlines()
    assert [one.strip().rstrip("\\) ") for one in lines].count(line.rstrip(")")) == 1


def test_lion_is_named_nowhere_else():
    """Otherwise the guide lacks a step."""
    found = {}
    for path in sources():
        name = str(path.relative_to(ROOT))
        count = len(re.findall(r".*\blion\b.*", path.read_text(), re.IGNORECASE))
        if count and name not in FILES:
            found[name] = count
    expected: dict[str, int] = {}
    for name, _ in LINES:
        expected[name] = expected.get(name, 0) + 1
    assert found == expected

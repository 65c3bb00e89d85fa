"""What a release relies on: one version everywhere, and the files that a public project has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / ".github").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)


def found(pattern: str, name: str) -> str:
    """What a pattern's group matches in a file of the repository."""
    return re.search(pattern, (ROOT / name).read_text(), re.MULTILINE)[1]


def test_every_file_has_the_same_version():
    version = found(r'^version = "(.+)"$', "pyproject.toml")
    assert found(r"^project\(onepass VERSION (\S+)", "CMakeLists.txt") == version
    assert found(r"^version: (.+)$", "CITATION.cff") == version
    assert found(r"^## (\S+) \(", "CHANGELOG.md") == version


def test_releases_have_a_wheel_for_every_python_that_is_named():
    named = re.findall(r"Python :: 3\.(\d+)", (ROOT / "pyproject.toml").read_text())
    built = found(r"^        python: \[(.+)\]$", ".github/workflows/wheels.yml").split(", ")
    assert {f"cp3{minor}" for minor in named} <= set(built)
    configured = re.findall(r'"(cp3\d+t?)-\*"', found(r"^build = (\[.+\])$", "pyproject.toml"))
    assert configured == built


def test_bug_reports_ask_for_the_facts():
    assert "onepass info --json" in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()


def test_workflows_call_scripts_that_exist():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        named = re.findall(r"bash (\.ci/[\w-]+)|python ((?:tests|benchmarks)/\w+\.py)", path.read_text())
        assert path.stem == "wheels" or named
        assert all((ROOT / (script or program)).is_file() for script, program in named), path

"""docs/lab.md and the committed results of `onepass lab --long`: they are of the experiments as they are."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from onepass import lab

DOCS = Path(__file__).parents[1] / "docs"
if not DOCS.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)
sys.path.insert(0, str(DOCS))

from _site import lab as site  # noqa: E402
from _site.markdown import load  # noqa: E402

each = pytest.mark.parametrize("name", site.NAMES)


def test_every_experiment_has_a_result():
    assert set(site.NAMES) == set(lab.EXPERIMENTS)


@each
def test_a_result_is_of_the_experiment_as_it_is(name):
    """Made by --long from a clean commit, with the settings, the claim and the criterion of the code."""
    experiment, made = lab.find(name), load(f"lab-{name}")
    assert re.fullmatch(r"[0-9a-f]{40}", made["commit"])
    assert made["command"].startswith(f"onepass lab {name} --long")
    assert made["seeds"] == list(range(experiment.long_seeds))
    assert made["settings"] == experiment.settings()
    for title in ("Claim", "Criterion"):
        assert made[title.lower()].replace(" ", "") == experiment.said(title).replace(" ", "")


@each
def test_verdict_and_rows_follow_from_the_measurements(name):
    found = site.result(name)
    again = lab.Result.of(lab.find(name), found.points)
    assert load(f"lab-{name}")["verdict"] == found.verdict == again.verdict
    assert [check.holds for check in again.checks] == [check.holds for check in found.checks]
    assert again.cells() == found.cells()


@each
def test_the_page_has_a_section_with_a_picture(name, tmp_path):
    text = (DOCS / "lab.md").read_text()
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert f"<!-- results: lab_{name.replace('-', '_')} -->" in section
    assert f"<!-- picture: lab-{name} -->" in section
    site.draw(name, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")

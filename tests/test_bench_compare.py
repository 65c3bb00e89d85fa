"""`onepass bench --compare`: what changed since another run, and what else differs between the two."""

from __future__ import annotations

import json

import pytest

from onepass.bench import compare, optim
from onepass.bench.case import Case
from test_cli import read, run

FACTS = {
    "op": "optim",
    "threads": 2,
    "device": "cpu",
    "quick": False,
    "commit": "a",
    "environment": {},
    "machine": {"cpu": "one", "cores": 2, "gpus": []},
    "versions": {"torch": "2.13.0", "onepass": "0.1.0", "isa": "avx2"},
}


def made(cases: dict[str, dict[str, tuple[float, float, float]]], **facts) -> dict:
    results = [
        {
            "case": case,
            "competitors": {
                name: dict(zip(("seconds_20", "seconds_50", "seconds_80"), times, strict=True))
                for name, times in competitors.items()
            },
        }
        for case, competitors in cases.items()
    ]
    return {**FACTS, **facts, "results": results}


def test_a_ratio_for_each_competitor_and_what_moved_beyond_both_spreads():
    old = made({"a": {"ours": (1, 2, 3), "fused": (1, 2, 3), "loop": (4, 5, 6), "gone": (1, 1, 1)}, "b": {}})
    new = made({"a": {"ours": (3, 4, 5), "fused": (3.1, 4, 5), "loop": (1, 2, 3.9), "extra": (1, 1, 1)}})
    found = {one.competitor: (one.ratio, one.moved) for one in compare.changes(old, new)}
    assert found == {
        "ours": (2.0, False),  # 3 is in both spreads
        "fused": (2.0, True),
        "loop": (0.4, True),
        "extra": (None, False),
        "gone": (None, False),
    }


def test_new_cases_are_listed_and_cases_that_were_not_run_are_not():
    old, new = made({"a": {"ours": (1, 2, 3)}}), made({"b": {"ours": (1, 2, 3)}})
    assert [(one.case, one.old) for one in compare.changes(old, new)] == [("b", None)]


def test_settings_that_differ_are_named():
    old = made({})
    new = made(
        {},
        threads=1,
        machine={**FACTS["machine"], "cpu": "other"},
        versions={**FACTS["versions"], "torch": "2.15.0"},
        environment={"OMP_NUM_THREADS": "1"},
        malloc={"freed_memory": "kept"},
    )
    assert list(compare.differences(old, old)) == []
    assert list(compare.differences(old, new)) == [
        "machine cpu: one before, other now",
        "threads: 2 before, 1 now",
        "environment: {} before, {'OMP_NUM_THREADS': '1'} now",
        "malloc freed_memory: None before, kept now",
        "versions torch: 2.13.0 before, 2.15.0 now",
    ]


@pytest.fixture
def _one_case(monkeypatch):
    case = Case("only", None, 1, lambda: {"ours": lambda: None, "extra": lambda: None})
    monkeypatch.setattr(optim, "cases", lambda device: [case])


@pytest.mark.usefixtures("_one_case")
def test_the_command_shows_what_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    before, output = tmp_path / "old.json", tmp_path / "new.json"
    before.write_text(json.dumps(made({"only": {"ours": (1e3, 2e3, 3e3), "gone": (1.0, 1.0, 1.0)}})))
    status, text = run("bench", "optim", "--quick", "--compare", before, "--output", output)
    assert status == 0, text
    assert "only ours 2000000.000 0.00" in text
    assert " 0.00 moved " in text
    assert " new " in text
    assert " gone" in text
    assert "The runs differ in machine cpu: one before, " in text
    assert read(output)["results"][0]["case"] == "only"
    # Against itself nothing but the figures can differ.
    _, text = run("bench", "optim", "--quick", "--compare", output)
    assert "The runs differ" not in text


@pytest.mark.usefixtures("_one_case")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--compare must be a file that can be read, got "),
        ("{", "--compare must be a JSON file, got "),
        ("[]", "--compare must be a JSON file of onepass bench, got "),
        ('{"rows": []}', "--compare must be a JSON file of onepass bench, got "),
        (json.dumps(made({}, op="tail")), "--compare must be a JSON file of onepass bench optim, got "),
    ],
    ids=["missing", "broken", "list", "parity", "other"],
)
def test_a_wrong_file_is_refused_before_the_work(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr("onepass.cli.bench.measure", lambda *_: pytest.fail("has begun to work"))
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    status, text = run("bench", "optim", "--quick", "--compare", path)
    assert status == 2
    assert message in text

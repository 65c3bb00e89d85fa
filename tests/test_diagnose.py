"""The diagnosis by histories made by hand: what each rule needs, and that nothing upsets it."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import onepass
from diagnose_setup import Rows, each, first, found, plant, rows_of, stuck
from onepass.monitor import RULES, History, Monitor, diagnose
from onepass.optim import SGD, AdamW

# What each rule sees


def test_a_healthy_run_has_no_finding():
    assert diagnose(History(rows_of())) == []


def test_every_name_of_the_issue_has_a_rule():
    names = "generalization_gap learning_rate_too_high learning_rate_too_low no_warmup vanishing_gradients "
    names += "exploding_gradients dead_units stale_running_statistics small_batch_statistics overconfidence "
    names += "lost_updates scaler_thrashing missing_zero_grad decay_on_norms label_noise plateau divergence"
    assert set(RULES) == set(names.split())


@pytest.mark.parametrize("name", RULES)
def test_a_planted_fault_comes_first(name):
    rows = plant(name)
    findings = diagnose(History(rows))
    assert findings[0].name == name
    assert findings[0].confidence in ("medium", "high")
    assert findings[0].evidence[0].text
    assert findings[0].cures
    weights = [finding.weight for finding in findings]
    assert weights == sorted(weights, reverse=True)
    json.dumps([finding.to_json() for finding in findings], allow_nan=False)


@pytest.mark.parametrize("name", RULES)
def test_the_same_from_a_file(name, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in plant(name)))
    assert diagnose(History.read(path)) == diagnose(History(plant(name)))


@pytest.mark.parametrize("name", RULES)
def test_cures_are_lines_of_python(name):
    """Those that make an optimizer do make one."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    model = model.bfloat16() if name == "lost_updates" else model
    seen = {"model": model, "onepass": onepass, "SGD": SGD, "AdamW": AdamW, "torch": torch}
    for cure in itertools.chain(*(finding.cures for finding in diagnose(History(plant(name))))):
        assert cure.text.endswith(".")
        compile(cure.code, "cure", "exec")
        if cure.code.startswith("optimizer = "):
            exec(cure.code, dict(seen))


def test_the_lines_have_the_optimizer_and_the_rate_of_the_run():
    lower = diagnose(History(plant("learning_rate_too_high")))[0].cures[0]
    assert lower.code == "optimizer = SGD(model.parameters(), lr=0.001, momentum=0.9)"


def test_a_cause_comes_before_what_it_explains():
    rows = plant("dead_units")
    for row in each(rows, "layers"):
        row["layers"]["0"]["grad_norm"] = 0.0
    names = [finding.name for finding in diagnose(History(rows))]
    assert names.index("dead_units") < names.index("vanishing_gradients") < names.index("plateau")


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_rounding_that_keeps_the_mean_is_no_fault(rounding):
    rows = plant("lost_updates")
    rows[0]["optimizer"]["groups"][0]["rounding"] = rounding
    assert found(rows) == {"lost_updates": "low"}


def test_warm_up_is_seen():
    rows = plant("no_warmup")
    for row in each(rows, "step"):
        row["lr"] = [0.01 * min(1.0, row["step"] / 20)]
    assert "no_warmup" not in found(rows)


def test_regression_has_a_gap_without_accuracies():
    rows = plant("generalization_gap")
    for row in rows:
        for name in [name for name in row if "accuracy" in name or "calibration" in name or "confidence" in name]:
            del row[name]
    assert first(rows) == "generalization_gap"


def test_statistics_that_are_stale_and_do_no_harm():
    rows = rows_of()
    rows[0]["model"]["layers"][1]["momentum"] = 1e-3
    assert found(rows) == {"stale_running_statistics": "low"}


def test_a_transformer_that_stalls_from_the_start():
    """Without a spike, dead units or recovery: Adam, attention and a first step that replaces the weights."""
    rows = rows_of()
    stuck(rows)
    for row in each(rows, "step")[:8]:
        row["update_norm"] = [2.0]
    assert found(rows) == {"plateau": "medium"}
    rows[0]["model"]["layers"][3]["type"] = "MultiheadAttention"
    rows[0]["optimizer"]["groups"][0]["betas"] = [0.9, 0.999]
    assert first(rows) == "no_warmup"


# What upsets nothing


def header() -> dict[str, Any]:
    return rows_of()[0]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"kind": "run", "format": 1}],
        [header()],
        [header(), {"kind": "step", "step": 1, "epoch": 0, "loss": 2.3, "lr": [0.1]}],
        [header(), {"kind": "step", "step": 1, "epoch": 0, "lr": []}],
        [header(), {"kind": "step", "step": 1, "epoch": 0, "loss": 0.0, "lr": [0.0], "grad_norm": [0.0]}],
        [header(), {"kind": "epoch", "epoch": 0, "step": 0, "train_loss": 1.0}],
        [header(), {"kind": "end", "steps": 0, "seconds": 0.0}],
        [{"kind": "run", "model": None, "optimizer": None}, *rows_of()[1:]],
        [{"kind": "run", "model": {"layers": []}, "optimizer": {"groups": []}}, *rows_of()[1:]],
        [{"kind": "run", "optimizer": {"groups": [{"lr": None, "momentum": "?"}]}}, *rows_of()[1:]],
    ],
)
def test_nothing_to_say(rows):
    assert diagnose(History(rows)) == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_one_step_that_is_not_finite(value):
    findings = diagnose(History([header(), {"kind": "step", "step": 1, "epoch": 0, "loss": value, "lr": [0.1]}]))
    assert [finding.name for finding in findings] == ["divergence"]
    assert "step 1" in findings[0].evidence[0].text
    json.dumps(findings[0].to_json(), allow_nan=False)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", ["layers", "epoch", "event", "end"])
def test_without_a_kind_of_rows(name, kind):
    found([row for row in plant(name) if row["kind"] != kind])


@pytest.mark.parametrize("name", RULES)
def test_no_validation_leaves_the_other_findings(name):
    rows = plant(name)
    for row in each(rows, "epoch"):
        for key in [key for key in row if key.startswith("val_")]:
            del row[key]
    needs_validation = ("generalization_gap", "overconfidence", "label_noise")
    assert (first(rows) == name) if name not in needs_validation else found(rows) == {}


@pytest.mark.parametrize("name", RULES)
def test_no_batch_norm(name):
    rows = plant(name)
    del rows[0]["model"]["layers"][1]
    for row in each(rows, "layers"):
        del row["layers"]["1"]
    needs_norms = ("stale_running_statistics", "small_batch_statistics", "decay_on_norms")
    assert first(rows) == name if name not in needs_norms else name not in found(rows)


@pytest.mark.parametrize("name", RULES)
def test_every_length(name):
    """A history that breaks off anywhere has findings or none, and no error and no warning."""
    rows = plant(name)
    for length in [*range(1, 12), 30, 45, 60, 100, 150]:
        found(rows[:length])


def _fields(rows: Rows) -> set[tuple[str, str]]:
    kept = ("kind", "format", "step", "epoch", "layers")
    return {(row["kind"], name) for row in rows for name in row if name not in kept}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", [None, "nan", "inf", "-inf", 0.0, -1.0])
def test_fields_that_are_missing_or_strange(name, value):
    rows = plant(name, steps=60)
    for kind, name_of_field in sorted(_fields(rows)):
        spoilt = copy.deepcopy(rows)
        for row in each(spoilt, kind):
            if name_of_field in row:
                was = row.pop(name_of_field)
                if value is not None and kind != "run":
                    row[name_of_field] = [value] * len(was) if isinstance(was, list) else value
        found(spoilt)


def test_several_groups():
    rows = plant("lost_updates")
    group = rows[0]["optimizer"]["groups"][0]
    rows[0]["optimizer"]["groups"] = [{**group, "parameters": 900}, {**group, "parameters": 100, "lr": 0.1}]
    for row in each(rows, "step"):
        row |= {
            "lr": [0.01, 0.1],
            "grad_norm": [1.0, 0.0],
            "param_norm": [10.0, 1.0],
            "update_norm": [0.03, 0.001],
        }
        row |= {"lost_updates": [900, 20], "nonfinite": [0, 0]}
    finding = diagnose(History(rows))[0]
    assert finding.name == "lost_updates"
    assert finding.evidence[0].values["share"] == pytest.approx(0.92)


def test_what_is_no_history():
    for value in (None, [], {"loss": [1.0]}):
        with pytest.raises(TypeError, match="diagnose: history must be a History, got"):
            diagnose(value)


def test_a_monitor_diagnoses_itself():
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), lr=1e20)
    with Monitor(model, optimizer) as monitor:
        for _ in range(8):
            loss = model(torch.ones(4, 2)).square().mean()
            loss.backward()
            optimizer.step(zero_grad=True)
            monitor.log(loss=loss)
        names = [finding.name for finding in monitor.diagnose()]
    assert names[0] == "divergence"
    assert str(monitor.diagnose()[0]).startswith("divergence (high): the loss is ")


def test_diagnosing_changes_nothing():
    history = History(plant("plateau"))
    before = {name: np.array(column) for name, column in history.steps.items()}
    diagnose(history)
    assert all(np.array_equal(before[name], column) for name, column in history.steps.items())


# What the docs show


def test_every_rule_says_why():
    for rule in RULES.values():
        assert rule.thresholds, rule.name
        assert rule.source, rule.name
        assert 0 < rule.severity <= 1
        assert set(rule.explains) <= set(RULES) - {rule.name}
        for threshold in rule.thresholds.values():
            assert min(len(threshold.meaning), len(threshold.reason)) > 8


def test_no_two_rules_explain_each_other():
    pairs = [(a, b) for a in RULES for b in RULES[a].explains if a in RULES[b].explains]
    assert pairs == []


def test_the_docs_have_every_rule():
    """The tables of docs/diagnosis.md are made of the rules when the site is built."""
    page = Path(__file__).parents[1] / "docs" / "diagnosis.md"
    if not page.exists():
        pytest.skip("needs the source tree")
    text = page.read_text()
    assert "<!-- results: diagnosis -->" in text
    assert "<!-- results: diagnosis_thresholds -->" in text

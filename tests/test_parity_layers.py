"""The trap suites of `onepass parity batch_norm | dropout | cross_entropy --impl`."""

from __future__ import annotations

import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onepass
import onepass.parity
from onepass.parity import case as cases
from onepass.parity.traps import LAYER_TRAPS
from test_parity_traps import run

CHECKS = {
    "batch_norm": onepass.parity.check_batch_norm,
    "dropout": onepass.parity.check_dropout,
    "cross_entropy": onepass.parity.check_cross_entropy,
}
# Of torch itself: docs/traps.md has each.
OF_TORCH = {
    "channels_last_statistics",
    "training_between_evaluation_and_backward",
    "checkpointing_moves_statistics_once",
    "confident_label",
}


def verdicts(op, implementation):
    """The verdict of each trap, without the accuracy."""
    made = CHECKS[op](implementation)
    return {case.name: case.run().verdict for case in made if not case.name.startswith("accuracy")}


PLANTED = {
    "batch_norm broken_layers:BiasedVariance": {"running_variance_is_unbiased"},
    "batch_norm broken_layers:variance_by_squares": {"large_mean"},
    "dropout broken_layers:Unscaled": {"scale"},
    "dropout broken_layers:SameMask": {"masks_do_not_repeat", "manual_seed"},
    "cross_entropy broken_layers:ignored_rows_count": {"ignore_index"},
    "cross_entropy broken_layers:in_place": {"logits_used_by_others"},
    "cross_entropy broken_layers:incoming_gradient_ignored": {"incoming_gradient", "a_gradient_for_each_row"},
}


@pytest.mark.parametrize(("words", "wanted"), PLANTED.items(), ids=PLANTED)
def test_a_planted_fault_is_found(words, wanted, tmp_path):
    op, name = words.split()
    file = tmp_path / "found.json"
    options = ("--impl", name, "--dtype", "float32", "--steps", 1, "--json", file)
    status, output = run("parity", op, *options)
    assert status == 1
    found = {one["case"] for one in json.loads(file.read_text())["findings"] if one["verdict"] == cases.WRONG}
    assert wanted <= found
    assert all(f"{one} wrong, silently" in output for one in wanted)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("batch_norm", "torch.nn:BatchNorm2d"),
        ("batch_norm", "torch.nn.functional:batch_norm"),
        ("dropout", "torch.nn:Dropout"),
        ("cross_entropy", "torch.nn:CrossEntropyLoss"),
    ],
)
def test_torchs_have_no_fault_but_their_own(op, name, tmp_path):
    file = tmp_path / "found.json"
    status, output = run("parity", op, "--impl", name, "--steps", 1, "--json", file)
    assert status == 0, output
    found = {one["case"]: one["verdict"] for one in json.loads(file.read_text())["findings"]}
    assert cases.WRONG not in found.values()
    assert {case for case, verdict in found.items() if verdict == cases.AS_TORCH} <= OF_TORCH
    assert {case for case, verdict in found.items() if verdict == cases.REFUSES} <= {"one_value_per_channel"}


@pytest.mark.parametrize(
    ("op", "implementation"),
    [
        ("batch_norm", onepass.nn.BatchNorm1d),
        ("batch_norm", onepass.nn.BatchNorm2d),
        ("batch_norm", onepass.nn.functional.batch_norm),
        ("dropout", onepass.nn.Dropout),
        ("dropout", onepass.nn.functional.dropout),
        ("cross_entropy", onepass.nn.CrossEntropyLoss),
        ("cross_entropy", onepass.nn.functional.cross_entropy),
    ],
)
def test_ours_are_right(op, implementation):
    found = {case: verdict for case, verdict in verdicts(op, implementation).items() if verdict != cases.RIGHT}
    assert set(found.values()) <= {cases.REFUSES, "does not apply"}
    assert {case for case, verdict in found.items() if verdict == cases.REFUSES} <= {"one_value_per_channel"}


def test_a_label_outside_is_found():
    def clamped(logits, target, **options):
        return F.cross_entropy(logits, target.clamp(0, logits.shape[1] - 1), **options)

    found = verdicts("cross_entropy", clamped)
    assert found["label_outside_the_classes"] == cases.WRONG


def test_a_wrong_shape_is_found():
    class Flat(nn.Dropout):
        def forward(self, x):
            return super().forward(x).flatten()

    assert verdicts("dropout", Flat)["strided_input"] == cases.WRONG
    # and no crash in the accuracy
    accuracy = [case for case in CHECKS["dropout"](Flat) if case.name.startswith("accuracy")]
    assert {case.run().verdict for case in accuracy} <= {cases.WRONG, cases.REFUSES}


@pytest.mark.parametrize("op", LAYER_TRAPS)
def test_every_trap_says_what_it_asks_and_where_it_was_seen(op):
    traps = LAYER_TRAPS[op]
    assert len({one.name for one in traps}) == len(traps) > 9
    assert all(re.match(r"[A-Z][a-z]+s\b.*\.$", one.what) and one.source for one in traps)
    assert sum(one.required for one in traps) == 1


def test_the_device_of_torch_tensors_is_asked_for():
    (case, *_) = onepass.parity.check_dropout(onepass.nn.Dropout, device=torch.device("cpu"))
    assert case.run().verdict == cases.RIGHT

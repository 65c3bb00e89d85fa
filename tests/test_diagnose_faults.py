"""Planted faults and healthy runs, the short form of `onepass lab diagnose`: one seed of the proof set.

The thresholds were not chosen by these trainings: `onepass.lab.faults.tuning` has other data, networks and seeds.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onepass.lab.diagnose import CURED, HEALTHY, PLANTED, WRONG, judged
from onepass.lab.faults import proof, tuning
from onepass.lab.faults.data import sklearn_digits, small_mnist
from onepass.lab.faults.training import Fault, Training, name_of, record
from onepass.monitor import RULES, Cure, Evidence, Finding, diagnose

pytest.importorskip("mlxtend")
pytest.importorskip("sklearn")

SEED = proof.SEEDS[0]
# A variant is left to the long form, and so are the cured runs that are healthy ones, too.
MAIN = [name for name in proof.PLANTED if name == name_of(name)]


def findings_of(training: Training) -> list[Finding]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are too small for more
    try:
        return diagnose(record(training, small_mnist(), SEED))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", MAIN)
def test_the_planted_fault_is_found_first(name):
    findings = findings_of(proof.PLANTED[name].faulty)
    assert not judged(PLANTED, name, findings)[WRONG], [str(finding) for finding in findings]
    assert findings[0].confidence in ("medium", "high")


@pytest.mark.parametrize("name", proof.HEALTHY)
def test_a_healthy_run_has_no_finding_above_low(name):
    findings = findings_of(proof.HEALTHY[name])
    assert not judged(HEALTHY, "", findings)[WRONG], [str(finding) for finding in findings]


@pytest.mark.parametrize("module", [tuning, proof])
def test_the_sets_are_large_enough(module):
    assert {name_of(name) for name in module.PLANTED} == set(RULES)
    assert len(RULES) >= 15
    assert len(module.SEEDS) == 3
    assert len(module.HEALTHY) >= 8
    assert all(isinstance(fault, Fault) for fault in module.PLANTED.values())


def test_the_sets_have_nothing_in_common():
    assert not set(tuning.SEEDS) & set(proof.SEEDS)
    pairs = [(tuning.PLANTED[name].faulty, proof.PLANTED[name].faulty) for name in MAIN]
    assert all(repr(a.network) != repr(b.network) or a.optimizer is not b.optimizer for a, b in pairs)


def test_a_training_is_the_same_each_time():
    """Whatever was drawn before; torch's generator is left as it was."""
    training, images = tuning.PLANTED["divergence"].faulty, sklearn_digits()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = record(training, images, 1).steps["loss"]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert np.array_equal(record(training, images, 1).steps["loss"], first)


def test_what_is_judged_right():
    def one(name: str, confidence: str) -> Finding:
        return Finding(name, confidence, 0.5, [Evidence("text")], [Cure("text.", "code")])

    low, high = one("plateau", "low"), one("divergence", "high")
    assert judged(PLANTED, "divergence", [high, low])[WRONG] == 0
    assert judged(PLANTED, "plateau", [high, low])[WRONG] == 1
    assert judged(PLANTED, "plateau", [])[WRONG] == 1
    assert judged(CURED, "divergence", [low])[WRONG] == 0
    assert judged(CURED, "divergence", [low, high])[WRONG] == 1
    assert judged(HEALTHY, "", [low])[WRONG] == 0
    assert judged(HEALTHY, "", [high])[WRONG] == 1

"""The trap suite of `onepass parity optim --impl`: it finds planted faults, and none in torch's plain loop."""

from __future__ import annotations

import json
import re

import pytest
import torch
from typer.testing import CliRunner

import onepass
import onepass.parity
from onepass.cli.app import app
from onepass.parity import case as cases
from onepass.parity.subject import reference_class

# Of torch's plain loop itself: docs/traps.md has each.
OF_TORCH = {"wide_states_in_a_checkpoint", "small_updates_add_up", "gradient_in_its_parameters_memory"}


def run(*arguments: object) -> tuple[int, str]:
    """Runs the command; returns its exit status, and its output without frames and line breaks."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


def verdicts(cls, **options):
    """The verdict of each trap, without the accuracy."""
    made = onepass.parity.check_optimizer(cls, **options)
    return {case.name: case.run().verdict for case in made if not case.name.startswith("accuracy")}


PLANTED = {
    "LateGradient": {"late_first_gradient", "step_counts_of_several_dtypes", "add_param_group"},
    "Stride": {"channels_last_parameter", "channels_last_gradient", "strided_view", "transposed_parameter"},
    "BiasCorrection": {"bias_correction", "plain_steps"},
    "CoupledDecay": {"weight_decay"},
    "EpsInsideTheRoot": {"eps_outside_the_root"},
    "AmsgradIgnored": {"amsgrad"},
    "StateDtype": {"state_dtype_is_kept_by_loading"},
    "FirstMomentumDampened": {"first_momentum_is_not_dampened"},
}
AS = {
    "CoupledDecay": "adamw",
    "EpsInsideTheRoot": "adamw",
    "StateDtype": "adamw",
    "FirstMomentumDampened": "sgd",
}


@pytest.mark.parametrize(("name", "wanted"), PLANTED.items(), ids=PLANTED)
def test_a_planted_fault_is_found(name, wanted, tmp_path):
    file = tmp_path / "found.json"
    options = ("--impl", f"broken_optimizers:{name}", "--as", AS.get(name, "adam"))
    status, output = run("parity", "optim", *options, "--dtype", "float32", "--steps", 1, "--json", file)
    assert status == 1
    found = {one["case"] for one in json.loads(file.read_text())["findings"] if one["verdict"] == cases.WRONG}
    assert found == wanted
    for one in wanted:
        assert f"{one} wrong, silently" in output


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_the_same_code_without_a_fault_has_none(name):
    """Also shows that none of the cases judges torch's own code only."""
    import broken_optimizers

    found = verdicts(getattr(broken_optimizers, name))
    assert {case for case, verdict in found.items() if verdict == cases.WRONG} == set()


def test_states_of_another_meaning_are_no_fault(tmp_path):
    """optimi keeps averages whose bias is corrected under torch's names."""
    import broken_optimizers

    assert cases.WRONG not in verdicts(broken_optimizers.OtherStates, as_="adamw").values()
    file = tmp_path / "found.json"
    options = ("--impl", "broken_optimizers:OtherStates", "--as", "adamw", "--dtype", "float32", "--json", file)
    status, output = run("parity", "optim", *options)
    assert status == 0, output
    assert {row["tensor"] for row in json.loads(file.read_text())["rows"]} == {"param"}


def test_what_comes_with_torchs_optimizer_is_as_torch():
    """Also for a rule that torch lacks."""

    class Lion(torch.optim.Optimizer):
        def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
            super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for param in (one for one in group["params"] if one.grad is not None):
                    average = self.state[param].setdefault("exp_avg", torch.zeros_like(param))
                    param.mul_(1 - group["lr"] * group["weight_decay"])
                    param.sub_(average.lerp(param.grad, 1 - group["betas"][0]).sign_() * group["lr"])
                    average.lerp_(param.grad, 1 - group["betas"][1])

    found = verdicts(Lion)
    assert found["wide_states_in_a_checkpoint"] == cases.AS_TORCH
    assert found["closure"] == cases.WRONG


def test_an_error_is_a_refusal():
    import broken_optimizers

    found = verdicts(broken_optimizers.LateGradientRaises, as_="adam")
    assert found["late_first_gradient"] == cases.REFUSES
    assert cases.WRONG not in found.values()


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD"])
def test_torchs_plain_loop_has_no_fault_but_its_own(name, tmp_path):
    file = tmp_path / "found.json"
    options = ("--impl", f"torch.optim:{name}", "--kwargs", "foreach=False", "--steps", 2, "--json", file)
    status, output = run("parity", "optim", *options)
    assert status == 0, output
    written = json.loads(file.read_text())
    assert (written["implementation"], written["as"]) == (f"torch.optim:{name}", name.lower())
    assert written["package_version"].partition("+")[0] == torch.__version__.partition("+")[0]
    found = {one["case"]: one["verdict"] for one in written["findings"]}
    assert len(found) > 40
    assert cases.WRONG not in found.values()
    assert {case for case, verdict in found.items() if verdict == cases.AS_TORCH} <= OF_TORCH


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Lion"])
def test_ours_have_no_fault(name):
    found = verdicts(getattr(onepass.optim, name))
    assert cases.WRONG not in found.values()
    assert found["wide_states_in_a_checkpoint"] == cases.RIGHT
    assert {case for case, verdict in found.items() if verdict == cases.AS_TORCH} <= {"small_updates_add_up"}
    wanted = {"gradient_in_its_parameters_memory", "parameters_that_share_memory", "sparse_gradient"}
    assert {case for case, verdict in found.items() if verdict == cases.REFUSES} <= wanted


def test_strict_counts_torchs_own_faults():
    options = ("--impl", "torch.optim:SGD", "--kwargs", "foreach=False", "--dtype", "float32", "--steps", 1)
    assert run("parity", "optim", *options)[0] == 0
    assert run("parity", "optim", *options, "--strict")[0] == 1
    (case,) = (
        one
        for one in onepass.parity.check_optimizer(torch.optim.SGD, strict=True, foreach=False)
        if one.name == "wide_states_in_a_checkpoint"
    )
    with pytest.raises(AssertionError, match="wide_states_in_a_checkpoint: as torch: state momentum_buffer was"):
        case.check()


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="the faults are those of torch 2.13")
def test_faults_of_torchs_fused_step_are_found():
    found = verdicts(torch.optim.AdamW, fused=True)
    wrong = {"channels_last_parameter", "channels_last_gradient", "transposed_parameter", "strided_view"}
    assert {case for case, verdict in found.items() if verdict == cases.WRONG} == {
        *wrong,
        "autograd_notices_the_step",
    }
    assert verdicts(torch.optim.SGD, fused=True)["every_element_of_bfloat16"] == cases.WRONG


def test_an_implementation_that_refuses_everything_is_an_error(tmp_path):
    file = tmp_path / "found.json"
    options = ("--impl", "broken_optimizers:AmsgradIgnored", "--as", "adam", "--kwargs", "nope=3")
    status, output = run("parity", "optim", *options, "--dtype", "float32", "--steps", 1, "--json", file)
    assert status == 2
    assert "impl must take the case plain_steps, without which the others say nothing, got TypeError" in output
    assert not file.exists()


def test_every_trap_says_what_it_asks_and_where_it_was_seen():
    from onepass.parity.traps import OPTIMIZER_TRAPS

    assert len({one.name for one in OPTIMIZER_TRAPS}) == len(OPTIMIZER_TRAPS)
    for one in OPTIMIZER_TRAPS:
        assert re.match(r"[A-Z][a-z]+s\b.*\.$", one.what), one.name
        assert one.source
    for rule in ("sgd", "adam", "adamw", "lion"):
        assert reference_class(rule).__name__.lower() == rule

"""`onepass bench train`: models that begin alike, processes that take turns, and figures that add up."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from onepass import bench
from onepass.bench import train
from onepass.bench.case import SelfTimed
from onepass.bench.train import profile
from onepass.bench.train.layers import KITS
from onepass.bench.train.models import GPT, MLP, Chain, ResNet18
from onepass.bench.train.shown import KEPT
from onepass.bench.train.training import VARIANTS, WORKS, Training, Work
from onepass.bench.train.worker import Worker, WorkerError
from test_cli import read, run
from tolerance import WHOLE_STEPS

CHAIN = "chain-32x256x8x8-nchw"
SMALL = {
    "gpt": (lambda kit: GPT(kit, 50, 2, 64, 8, dropout=0.0), Work("gpt", GPT, (2, 8), 50, is_tokens=True)),
    "resnet18": (lambda kit: ResNet18(kit, width=8), Work("a", ResNet18, (16, 3, 16, 16), optimizer="sgd")),
    "resnet18-channels_last": (
        lambda kit: ResNet18(kit, width=8),
        Work("a", ResNet18, (16, 3, 16, 16), optimizer="sgd", channels_last=True),
    ),
    "mlp": (lambda kit: MLP(kit, 16, 2, dropout=0.0), Work("a", MLP, (32, 16))),
    "chain": (lambda kit: Chain(kit, 8), Work("a", Chain, (4, 8, 4, 4), 0)),
}


def small(name: str, variant: str) -> Training:
    model, work = SMALL[name]
    return Training(Work(**{**vars(work), "model": model}), VARIANTS[variant])


def test_the_models_are_those_of_the_help_text():
    gpt = GPT(KITS["torch"])
    assert gpt.tokens.weight.shape == (32_000, 256)
    assert len(gpt.blocks) == 4
    assert WORKS[0].shape == (4, 256)
    resnet = ResNet18(KITS["torch"])
    assert sum(isinstance(one, torch.nn.Conv2d) for one in resnet.modules()) == 20
    # As torchvision's, whose first convolution has 49 weights a filter and whose head has 1,000 classes.
    count = sum(param.numel() for param in resnet.parameters())
    assert count == 11_689_512 - 64 * 3 * (49 - 9) - 513 * (1000 - 10)


@pytest.mark.parametrize("name", SMALL)
def test_ours_and_torchs_train_alike_without_dropout(name):
    ours, torchs = small(name, "ours"), small(name, "torch-fused" if name != "chain" else "torch")
    for (own, one), (its, other) in zip(
        ours.model.state_dict().items(), torchs.model.state_dict().items(), strict=True
    ):
        assert own == its
        assert torch.equal(one, other), own
    for _ in range(3):
        torch.testing.assert_close(ours.step(), torchs.step(), **WHOLE_STEPS)
    for one, other in zip(ours.model.parameters(), torchs.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, **WHOLE_STEPS)


def test_ours_keeps_less_for_the_backward_pass_of_blocks_with_dropout():
    work = Work("a", lambda kit: MLP(kit, 64, 2, dropout=0.1), (256, 64))
    ours, torchs = (Training(work, VARIANTS[name]).kept() for name in ("ours", "torch"))
    assert ours < 0.6 * torchs


@pytest.mark.parametrize("name", ["gpt", "mlp"])
def test_where_the_time_goes_adds_up(name):
    training = small(name, "ours")
    training.step()
    found = profile.split(training.step)
    families = found["families"]
    assert list(families) == list(profile.FAMILIES)
    assert sum(families.values()) == pytest.approx(found["seconds"])
    seen = {family for family, seconds in families.items() if seconds > 0}
    assert {"matrix products", "loss", "norms" if name == "mlp" else "attention", "optimizer"} <= seen
    products = sum(families[family] for family in profile.PRODUCTS)
    assert profile.outside(families) == pytest.approx(found["seconds"] - products)
    assert list(found["operations"].values()) == sorted(found["operations"].values(), reverse=True)


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["aten::addmm", "aten::linear"], "matrix products"),
        (["aten::copy_", "aten::addmm"], "matrix products"),
        (["aten::mkldnn_convolution", "aten::_convolution", "aten::conv2d"], "convolutions"),
        (["aten::empty", "BatchNormFunction"], "norms"),
        (["aten::mul_", "Optimizer.step#AdamW.step"], "optimizer"),
        (["aten::threshold_backward", "ReluBackward0"], "activations"),
        (["onepass::cross_entropy"], "loss"),
        (["CompiledFunctionBackward"], "compiled kernels"),
        (["aten::mm", "CompiledFunction"], "matrix products"),
        (["aten::add_"], "elementwise, copies, sums"),
        (["autograd::engine::evaluate_function: ConvolutionBackward0"], "Python and autograd"),
    ],
    ids=str,
)
def test_operations_belong_to_families(names, family):
    assert profile._family(names) == family


def test_command(tmp_path):
    output, plot = tmp_path / "train.json", tmp_path / "train.png"
    arguments = ("--case", CHAIN, "--quick", "--rounds", 2, "--threads", 1)
    status, text = run("bench", "train", *arguments, "--output", output, "--plot", plot)
    assert status == 0, text
    assert "Freed memory is kept" not in text
    assert plot.read_bytes().startswith(b"\x89PNG")
    written = read(output)
    assert written["malloc"]["freed_memory"] == "default"
    (result,) = written["results"]
    names = {name + state for name in ("ours", "torch") for state in ("", f" ({KEPT})")}
    assert set(result["competitors"]) == names
    assert result["faults"] == {}
    for name, one in result["competitors"].items():
        assert len(one["seconds"]) == 2
        assert (one["theirs_over_ours"] is None) == name.startswith("ours"), name
        figures = one["figures"]
        assert figures["first_step_seconds"] > 0
        assert figures["kept_bytes"] >= 2 * 32 * 256 * 64 * 4  # what convolution and batch norm read
        assert figures["peak_bytes"] > 50 * 2**20
        assert figures["outside_seconds"] < sum(figures["families"].values())
    kept = result["competitors"][f"torch ({KEPT})"]["figures"]["page_faults"]
    assert kept < result["competitors"]["torch"]["figures"]["page_faults"] / 4


def test_a_competitor_that_raises_is_reported_and_its_process_goes_on():
    worker = Worker(CHAIN, "torch", False)
    with pytest.raises(WorkerError, match=r"AttributeError: .*_training.*worker\.py:\d+"):
        worker.profile()
    assert worker.seconds() > 0


def test_a_process_that_is_gone_is_reported():
    worker = Worker(CHAIN, "torch", False)
    worker._process.kill()
    with pytest.raises(WorkerError, match="its process has ended"):
        worker.seconds()


def test_processes_end_with_their_worker():
    worker = Worker(CHAIN, "torch", False)
    pid = worker._process.pid
    del worker
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


class Clock(SelfTimed):
    """A competitor that says how long it takes."""

    def __init__(self, time):
        self.time = time

    def seconds(self):
        return self.time


def test_ratios_are_taken_within_a_state():
    times = {"ours": 1.0, "torch": 3.0, "ours (warm)": 10.0, "torch (warm)": 20.0}
    case = bench.Case("a", None, 2, lambda: {name: Clock(time) for name, time in times.items()}, states=("warm",))
    found = bench.measure(case, 2, torch.device("cpu"))
    assert {name: one.seconds for name, one in found.times.items()} == {
        name: [time] * 2 for name, time in times.items()
    }
    ratios = {name: one.theirs_over_ours for name, one in found.times.items()}
    assert ratios == {"ours": None, "torch": 3.0, "ours (warm)": None, "torch (warm)": 2.0}


def test_a_malloc_is_refused_where_both_are_timed():
    status, text = run("bench", "train", "--malloc", "kept")
    assert status == 2
    assert "malloc must be left out with train, which times both states, got kept" in text


def test_a_gpu_is_refused():
    with pytest.raises(ValueError, match="train: device must be cpu, got cuda"):
        train.cases(torch.device("cuda"))

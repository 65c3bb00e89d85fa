"""torch.distributed on two processes: DDP, ZeroRedundancyOptimizer, FSDP1 and 2; and DeepSpeed's ZeRO."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from clients.programs import PACKAGES, RULES, assert_same, client, image_model, loader, model, weights
from clients.workers import STEPS, together
from tolerance import ROUGH_NETWORK_SHARE, RUNNING_STATISTICS, SCHEDULE_RTOL

STRATEGIES = ["FULL_SHARD", "SHARD_GRAD_OP"]
DEEPSPEED = [(stage, precision) for stage in (0, 1, 2) for precision in ("float32", "bf16")]

PROGRAMS = {
    "ddp-plain": ("ddp", {}),
    "ddp-views": ("ddp", {"gradient_as_bucket_view": True, "static_graph": True}),
    "ddp-accumulating": ("ddp_accumulating", {}),
    "ddp-layers": ("ddp_layers", {}),
    "zero": ("zero", {}),
    **{
        f"fsdp-{strategy}-{original}": ("fsdp", {"use_orig_params": original, "strategy": strategy})
        for strategy in STRATEGIES
        for original in (False, True)
    },
    "fsdp2-torch": ("sharded", {"package": "torch"}),
    "fsdp2-onepass": ("sharded", {"package": "onepass"}),
    "post-local": ("post_local", {}),
    **{
        f"deepspeed-{stage}-{precision}": ("deepspeed_zero", {"stage": stage, "precision": precision})
        for stage, precision in DEEPSPEED
    },
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Runs all programs in two processes that are started once."""
    return together(tmp_path_factory.mktemp("ranks"), PROGRAMS)


@pytest.fixture
def of(results):
    """Returns the results of a program in each process; fails with what it raised."""

    def one(name):
        for found in results[name]:
            if isinstance(found, str) and found.startswith("Traceback"):
                pytest.fail(found, pytrace=False)
        return results[name]

    return one


def compare(ranks, steps=STEPS, low=None, native=STEPS - 1):
    """Fails unless both packages end at the same weights, all ranks at the same bits, by native steps of ours."""
    for rule in RULES:
        torchs, ours = (ranks[0][rule, package] for package in PACKAGES)
        assert_same(ours["weights"], torchs["weights"], weights(model()), steps, low)
        for rank in ranks:
            assert rank[rule, "onepass"]["quick"] == native
            assert rank[rule, "torch"]["quick"] == 0
            assert all(map(torch.equal, rank[rule, "onepass"]["weights"], ours["weights"]))
        if "rates" in ours:
            assert ours["rates"] == pytest.approx(torchs["rates"], rel=SCHEDULE_RTOL)
            assert len(set(ours["rates"])) == len(ours["rates"])


@pytest.mark.parametrize("buckets", ["plain", "views"])
def test_ddp(buckets, of):
    compare(of(f"ddp-{buckets}"))


def test_ddp_accumulates_and_compresses(of):
    compare(of("ddp-accumulating"), low=torch.float16)


def test_ddp_with_our_layers(of):
    ranks = of("ddp-layers")
    ours, torchs = ranks[0]["onepass"], ranks[0]["torch"]
    assert ours["calls"]["batch_norm_forward"] == 2 * STEPS
    assert torchs["calls"] == {}
    # Ten steps through batch norms and ReLUs, where an activation at 0 may fall to either side: of the movement.
    start = weights(image_model())
    for i, (our, their) in enumerate(zip(ours["weights"], torchs["weights"], strict=True)):
        assert float((our - their).abs().max()) < ROUGH_NETWORK_SHARE * float((their - start[i]).abs().max())
    for our, their in zip(ours["buffers"], torchs["buffers"], strict=True):
        torch.testing.assert_close(our, their, **RUNNING_STATISTICS)
    for other in ranks[1:]:
        assert all(map(torch.equal, other["onepass"]["weights"], ours["weights"]))


def test_zero_redundancy_optimizer(of):
    ranks = of("zero")
    compare(ranks)
    # The consolidated state of either package resumes the plain class of the other.
    for rule, (name, options) in RULES.items():
        nets = []
        for package, source in (("torch", "torch"), ("onepass", "torch"), ("torch", "onepass")):
            saved = ranks[0][rule, source]
            net = model()
            with torch.no_grad():
                for param, value in zip(net.parameters(), saved["weights"], strict=True):
                    param.copy_(value)
            opt = getattr(PACKAGES[package], name)(net.parameters(), **options)
            opt.load_state_dict(copy.deepcopy(saved["state"]))  # torch steps the tensors themselves that it loads
            for inputs, labels in loader():
                opt.zero_grad()
                cross_entropy(net(inputs), labels).backward()
                opt.step()
            nets.append(weights(net))
        for other in nets[1:]:
            assert_same(other, nets[0], weights(model()), STEPS + 6)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("use_orig_params", [False, True])
def test_fsdp1(use_orig_params, strategy, of):
    """Flat parameters, whose memory moves, and views of them are trained, saved, loaded and trained on."""
    ranks = of(f"fsdp-{strategy}-{use_orig_params}")
    for rule in RULES:
        torchs, ours = (ranks[0][rule, package] for package in PACKAGES)
        assert_same(ours["weights"], torchs["weights"], weights(model()), STEPS)
        assert_same(ours["on"], torchs["on"], weights(model()), STEPS + 3)
        assert ours["state"].keys() == torchs["state"].keys()
        assert len(ours["state"]) > 0
        # Of 9 steps, and of 3 after loading, all but the first one of a new optimizer are regular.
        assert ranks[0][rule, "onepass"]["quick"] == STEPS + 3 - 1


def test_fsdp2(of):
    assert of("fsdp2-torch") == ["", ""]
    assert of("fsdp2-onepass") == ["", ""]


def test_post_local_sgd(of):
    """The wrapper is an Optimizer and shares the groups; our scheduler is made on it."""
    compare(of("post-local"))


@pytest.mark.parametrize(("stage", "precision"), DEEPSPEED)
def test_deepspeed(stage, precision, of):
    """float32 at stage 0 is a plain step; each other case steps one flat float32 partition."""
    client("deepspeed")
    low = torch.bfloat16 if precision == "bf16" else None
    # DeepSpeed's optimizer for bfloat16 without sharding makes the states by a step with gradients of zero.
    native = STEPS if (stage, precision) == (0, "bf16") else STEPS - 1
    compare(of(f"deepspeed-{stage}-{precision}"), low=low, native=native)

"""hydra and OmegaConf: optimizers, schedulers, layers from a configuration, of which checkpoints hold nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

import onepass
from clients.programs import PACKAGES, assert_same, client, data, model, weights
from tolerance import SCHEDULE_RTOL

hydra = client("hydra.utils")
omegaconf = client("omegaconf")

STEPS = 12

CONFIG = """
secret: not for checkpoints
package: torch.optim
optimizer:
  _target_: ${package}.AdamW
  lr: 0.01
  betas: [0.8, 0.95]
  weight_decay: 0.1
  eps: 1e-8
scheduler:
  _target_: ${package}.lr_scheduler.MultiStepLR
  milestones: [3, 7]
  gamma: 0.5
groups:
- lr: 0.02
  betas: [0.7, 0.9]
- lr: 0.03
"""


def config(package):
    made = omegaconf.OmegaConf.create(CONFIG)
    made.package = f"{package}.optim"
    return made


def train(opt, lrs, net):
    inputs, labels = data()
    rates = []
    for _ in range(STEPS):
        opt.zero_grad()
        cross_entropy(net(inputs), labels).backward()
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        lrs.step()
    return rates


def kinds(value):
    """Yields the types of everything in nested dicts, lists and tuples."""
    if isinstance(value, dict):
        return {type(value)}.union(*(kinds(one) for one in value.values()))
    if isinstance(value, (list, tuple)):
        return {type(value)}.union(*(kinds(one) for one in value))
    return {type(value)}


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("convert", ["none", "partial", "all"])
def test_instantiates(partial, convert, watch):
    ends = {}
    for package in ("torch", "onepass"):
        net, made = model(), config(package)
        made.optimizer._convert_ = convert
        if partial:
            made.optimizer._partial_ = True
            opt = hydra.instantiate(made.optimizer)(net.parameters())
        else:
            opt = hydra.instantiate(made.optimizer, params=net.parameters())
        lrs = hydra.instantiate(made.scheduler, optimizer=opt)
        ends[package] = train(opt, lrs, net), weights(net)
        watch.assert_steps(package, STEPS)
    assert ends["onepass"][0] == pytest.approx(ends["torch"][0], rel=SCHEDULE_RTOL)
    assert len(set(ends["torch"][0])) == 3
    assert_same(ends["onepass"][1], ends["torch"][1], weights(model()), STEPS)


def test_groups_of_a_configuration(watch):
    ends = {}
    for package in ("torch", "onepass"):
        net, made = model(), config(package)
        layers = (net[0], net[2])
        groups = [
            {"params": layer.parameters(), **group} for layer, group in zip(layers, made.groups, strict=True)
        ]
        made.optimizer._partial_ = True  # otherwise hydra makes configurations of the groups
        opt = hydra.instantiate(made.optimizer)(groups)
        train(opt, hydra.instantiate(made.scheduler, optimizer=opt), net)
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


@pytest.mark.parametrize("where", ["constructor", "group", "set later"])
def test_checkpoints_hold_numbers_alone(where, tmp_path):
    """A checkpoint has none of the configuration's lists, which refer to their parents and so to all of it."""
    net, made = model(), config("onepass")
    betas = made.optimizer.betas
    if where == "constructor":
        opt = onepass.optim.AdamW(net.parameters(), lr=made.optimizer.lr, betas=betas)
    elif where == "group":
        opt = onepass.optim.AdamW([{"params": net.parameters(), "betas": betas}])
    else:
        opt = onepass.optim.AdamW(net.parameters())
        opt.param_groups[0]["betas"] = betas
    lrs = onepass.optim.lr_scheduler.MultiStepLR(opt, made.scheduler.milestones, gamma=made.scheduler.gamma)
    train(opt, lrs, net)
    state = {"opt": opt.state_dict(), "lrs": lrs.state_dict()}
    assert not [kind for kind in kinds(state) if kind.__module__.startswith("omegaconf")]
    torch.save(state, tmp_path / "state.pt")
    assert b"not for checkpoints" not in (tmp_path / "state.pt").read_bytes()
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    again = model()
    theirs = torch.optim.AdamW(again.parameters())
    theirs.load_state_dict(loaded["opt"])
    assert tuple(theirs.param_groups[0]["betas"]) == (0.8, 0.95)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("onepass.nn.BatchNorm2d", {"num_features": 4}),
        ("onepass.nn.Dropout", {"p": 0.3}),
        ("onepass.nn.CrossEntropyLoss", {"label_smoothing": 0.1}),
        ("onepass.optim.schedules.parse", {"text": "warmup(3) >> cosine(9)"}),
    ],
)
def test_other_targets(target, options):
    made = hydra.instantiate(omegaconf.OmegaConf.create({"_target_": target, **options}))
    assert type(made).__module__.startswith("onepass.")


def test_schedulers_take_its_lists():
    """Arguments that take a list take a configuration's; torch's OneCycleLR and CyclicLR need real lists."""
    lists = omegaconf.OmegaConf.create({"max_lr": [0.1, 0.2], "base": [0.01, 0.02], "milestones": [2]})
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    seen = {}
    for package, given in (("torch", omegaconf.OmegaConf.to_object(lists)), ("onepass", lists)):
        module, seen[package] = PACKAGES[package], []
        s = module.lr_scheduler
        for make in (
            lambda opt, s=s, given=given: s.OneCycleLR(opt, given["max_lr"], total_steps=6),
            lambda opt, s=s, given=given: s.CyclicLR(opt, given["base"], given["max_lr"], step_size_up=2),
            lambda opt, s=s, given=given: s.MultiStepLR(opt, given["milestones"]),
            lambda opt, s=s, given=given: s.SequentialLR(
                opt, [s.ConstantLR(opt), s.ExponentialLR(opt, 0.5)], given["milestones"]
            ),
        ):
            opt = module.SGD([{"params": [p]} for p in params], lr=0.1, momentum=0.9)
            lrs = make(opt)
            for _ in range(5):
                opt.step()
                lrs.step()
                seen[package].append([group["lr"] for group in opt.param_groups])
            assert not [kind for kind in kinds(lrs.state_dict()) if kind.__module__.startswith("omegaconf")]
    for ours, theirs in zip(seen["onepass"], seen["torch"], strict=True):
        assert ours == pytest.approx(theirs, rel=SCHEDULE_RTOL)

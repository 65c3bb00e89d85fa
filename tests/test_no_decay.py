"""no_decay_groups: which parameters are exempt, by the type of their module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onepass.optim import AdamW, no_decay_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False)])
        norms = nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.InstanceNorm1d(4, affine=True)
        self.norms = nn.ModuleList(norms)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.lstm = nn.LSTM(4, 4)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


EXEMPT = {
    "layers.0.bias": "bias",
    "layers.1.weight": "BatchNorm1d",
    "layers.1.bias": "bias",
    "norms.0.weight": "LayerNorm",
    "norms.0.bias": "bias",
    "norms.1.weight": "GroupNorm",
    "norms.1.bias": "bias",
    "norms.2.weight": "RMSNorm",
    "norms.3.weight": "InstanceNorm1d",
    "norms.3.bias": "bias",
    "attention.in_proj_bias": "bias",
    "attention.bias_k": "bias",
    "attention.bias_v": "bias",
    "attention.out_proj.bias": "bias",
    "lstm.bias_ih_l0": "bias",
    "lstm.bias_hh_l0": "bias",
}


def test_biases_and_normalisations_are_exempt():
    model = Model()
    groups, exempt = no_decay_groups(model, 0.1)
    assert {p.name: p.reason for p in exempt} == EXEMPT
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    named = dict(model.named_parameters())
    assert [id(p) for p in groups[1]["params"]] == [id(named[p.name]) for p in exempt]
    trained = [name for name, p in named.items() if p.requires_grad and name not in EXEMPT]
    assert [id(p) for p in groups[0]["params"]] == [id(named[name]) for name in trained]
    AdamW(groups)


def test_further_modules_and_names():
    model = Model()
    _, exempt = no_decay_groups(model, 0.1, no_decay_modules=[nn.Embedding], no_decay_names=["scale"])
    assert {p.name: p.reason for p in exempt} == {**EXEMPT, "embedding.weight": "Embedding", "scale": "named"}


def test_shared_parameters_are_listed_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[1].bias = model[0].bias
    groups, exempt = no_decay_groups(model, 0.1)
    assert [len(group["params"]) for group in groups] == [1, 1]
    assert [p.name for p in exempt] == ["0.bias"]


def test_no_empty_group():
    groups, exempt = no_decay_groups(nn.Linear(2, 2, bias=False), 0.1)
    assert len(groups) == 1
    assert exempt == []


def test_unknown_names():
    with pytest.raises(ValueError, match="no_decay_names must be parameters of the model, got 'wieght'"):
        no_decay_groups(nn.Linear(2, 2), 0.1, no_decay_names=["wieght"])


@pytest.mark.parametrize("decay", [float("nan"), float("inf"), -0.1])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r"^no_decay_groups: weight_decay must be finite and at least 0, got"):
        no_decay_groups(nn.Linear(2, 2), decay)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"no_decay_names": "weight"}, "no_decay_names must be an iterable of str objects, got 'weight'"),
        ({"no_decay_names": ["weight", 3]}, r"no_decay_names\[1\] must be a str, got 3"),
        ({"no_decay_modules": nn.Linear}, "no_decay_modules must be an iterable of type objects, got <class"),
        ({"no_decay_modules": ["Linear"]}, r"no_decay_modules\[0\] must be a type, got 'Linear'"),
    ],
)
def test_exemptions_of_a_wrong_kind(options, message):
    with pytest.raises(TypeError, match=f"^no_decay_groups: {message}"):
        no_decay_groups(nn.Linear(2, 2), 0.1, **options)

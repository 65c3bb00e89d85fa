"""Parameters, gradients and optimizers of the tests of low precision."""

from __future__ import annotations

import pytest
import torch

import onepass.optim
from optim_setup import random_params

HALVES = (torch.bfloat16, torch.float16)
RULES = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "adam": ("Adam", {"weight_decay": 0.1}),
    "adamw": ("AdamW", {}),
    "amsgrad": ("AdamW", {"amsgrad": True}),
    "lion": ("Lion", {"weight_decay": 0.1}),
}
MODES = {
    "stochastic": {"rounding": "stochastic", "seed": 7},
    "kahan": {"rounding": "kahan"},
    "master": {"master_weights": True},
}
# Several rows of 512 and a draw group of 256 that is not whole; a scalar; nothing.
SHAPES = ((1500,), (), (0,), (3, 7), (16, 16))
STATES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
each_rule = pytest.mark.parametrize("rule", RULES)
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)
each_mode = pytest.mark.parametrize("mode", MODES)


def params_of(device, dtype, seed=0):
    return random_params(SHAPES, dtype, device, seed)


def rounded(rule, params, **options):
    kind, own = RULES[rule]
    if rule == "sgd":  # without momentum there is no state whose dtype could be asked for
        options.pop("state_dtype", None)
    return getattr(onepass.optim, kind)(params, lr=1e-3, **own, **options)


def give_in(params, step, dtype=None):
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        grad = torch.randn(param.shape, generator=generator)
        param.grad = grad.to(dtype or param.dtype).to(param.device, param.dtype)

"""Parameters, gradients and optimizers of the tests of a step's tail, without and with moving averages."""

from __future__ import annotations

import pytest
import torch

import onepass.optim
from conftest import Backend
from optim_setup import random_params

SHAPES = ((), (7,), (0,), (61,), (33, 65), (20000,))
RULES = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": ("Adam", {"weight_decay": 0.1}),
    "adamw": ("AdamW", {"maximize": True}),
    "amsgrad": ("AdamW", {"amsgrad": True}),
    "lion": ("Lion", {"weight_decay": 0.1}),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
each_rule = pytest.mark.parametrize("rule", RULES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def params_of(backend: Backend, dtype=torch.float32, seed=0) -> list[torch.nn.Parameter]:
    return random_params(SHAPES, dtype, backend.device, seed)


def tailed(rule: str, params, package=onepass.optim, **tail) -> torch.optim.Optimizer:
    kind, options = RULES[rule]
    return getattr(package, kind)(params, lr=0.01, **options, **tail)


def on_device(backend: Backend, rule: str) -> dict[str, bool]:
    """Options with which the simulator, too, counts steps and begins states as a GPU must."""
    return {"capturable": True} if backend.name == "simt" else {}


def set_grads(params, step: int, factor=1.0, like=None) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        grad = torch.randn(param.shape, generator=generator) * factor
        value = grad.to(like or param.dtype).to(param.device, param.dtype)
        if param.grad is None:
            param.grad = value
        else:
            param.grad.copy_(value)


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().double().cpu().flatten() for t in tensors])


def same_states(one, other) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True)
    )

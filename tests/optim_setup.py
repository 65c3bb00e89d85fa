"""Parameters, gradients and optimizers of the tests, and what a rejected call must leave as it is."""

from __future__ import annotations

import pytest
import torch

import onepass
from onepass.optim._step.plain import plain_class

SHAPES = ((5,), (2, 3), (4, 4))
PLAIN = {"foreach": False, "fused": False}
RULES = [
    pytest.param("SGD", {"lr": 0.1}, id="sgd"),
    pytest.param("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}, id="sgd-momentum"),
    pytest.param("Adam", {"lr": 0.1, "amsgrad": True}, id="adam-amsgrad"),
    pytest.param("AdamW", {"lr": 0.1}, id="adamw"),
    pytest.param("Lion", {"lr": 0.1, "weight_decay": 0.1}, id="lion"),
]


class Torchs:
    """torch.optim's classes, and the loop of torch's operations for a rule that torch lacks."""

    __name__ = "torch.optim"

    def __getattr__(self, name):
        return plain_class(getattr(onepass.optim, name))


torchs = Torchs()


def random_params(shapes=SHAPES, dtype=torch.float32, device="cpu", seed=0):
    """Parameters with the same values at each call; dtype: of all of them, or of each."""
    generator = torch.Generator().manual_seed(seed)
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(shapes)
    return [
        torch.nn.Parameter(random(shape, generator, dtype.is_complex).to(device, dtype))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]


def random(shape, generator, is_complex=False):
    return torch.randn(shape, dtype=torch.complex64 if is_complex else torch.float32, generator=generator)


def optimizer_of(package, rule, params, options, second=None, second_lr=0.05):
    """An optimizer of ours, or torch's plain loop; parameters from `second` on are a group with another rate."""
    flags = {} if package is onepass.optim else PLAIN
    if second is not None:
        params = [{"params": params[:second]}, {"params": params[second:], "lr": second_lr}]
    return getattr(package, rule)(params, **{**flags, **options})


def make(package, rule, options, device="cpu"):
    """Parameters in two groups, and their optimizer."""
    params = random_params(device=device)
    return params, optimizer_of(package, rule, params, options, second=2)


def give_gradients(params, seed, scale=1.0):
    """The same gradients for each dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = (random(param.shape, generator, param.is_complex()) * scale).to(param)


def train(params, optimizer, steps):
    """Takes the numbered steps; each step's gradients are the same for all."""
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


def states(params, optimizer):
    """Copies of each parameter's states; torch's SGD without momentum may note None, which is no state."""
    return [{n: v.clone() for n, v in optimizer.state.get(p, {}).items() if v is not None} for p in params]


def bits(value):
    """What a rejected step must not change: values, also of the memory around them, or the thing itself."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta:
        return repr(value)
    value = value.detach()
    return str(value.dtype), value.untyped_storage().cpu().tolist()


def snapshot(optimizer):
    """Bits of all parameters, gradients, states and options, and which object is where."""
    params = [p for group in optimizer.param_groups for p in group["params"] if p is not None]
    states = {(i, n): bits(v) for i, p in enumerate(params) for n, v in optimizer.state.get(p, {}).items()}
    options = [{n: repr(v) for n, v in group.items() if n != "params"} for group in optimizer.param_groups]
    grads = [(id(p.grad), p.grad if p.grad is None else bits(p.grad)) for p in params]
    return [id(p) for p in params], [bits(p) for p in params], grads, states, options


def put(container, key, value):
    """Puts the value there; returns what puts the old one back."""
    old = container[key]
    container[key] = value
    return lambda: container.__setitem__(key, old)

"""Optimizers of three parameters in two groups, and what a rejected call must leave as it is."""

from __future__ import annotations

import pytest
import torch

RULES = [
    pytest.param("SGD", {"lr": 0.1}, id="sgd"),
    pytest.param("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}, id="sgd-momentum"),
    pytest.param("Adam", {"lr": 0.1, "amsgrad": True}, id="adam-amsgrad"),
    pytest.param("AdamW", {"lr": 0.1}, id="adamw"),
]


def make(package, rule, options, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(device)) for s in ((5,), (2, 3), (4, 4))]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]
    flags = {"foreach": False, "fused": False} if package is torch.optim else {}
    return params, getattr(package, rule)(groups, **options, **flags)


def give_gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(param.device)


def train(params, optimizer, steps):
    for step in steps:
        give_gradients(params, step)
        optimizer.step()


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

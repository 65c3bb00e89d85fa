"""Implementations that test_bench_impl.py lets compete: right ones, wrong ones, and some that raise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class RightAdamW(torch.optim.AdamW):
    """torch's."""


class LazyAdamW(torch.optim.AdamW):
    """Does nothing, and would win."""

    def step(self, closure=None):
        pass


class LastAdamW(torch.optim.AdamW):
    """Leaves out the last parameter."""

    def step(self, closure=None):
        self.param_groups[0]["params"][-1].grad = None
        super().step(closure)


class NotFiniteAdamW(torch.optim.AdamW):
    """Writes nan."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["params"][0].mul_(float("nan"))


class RaisingAdamW(torch.optim.AdamW):
    """Raises at the first step."""

    def step(self, closure=None):
        raise RuntimeError("no kernel\nfor this")


class TiringAdamW(torch.optim.AdamW):
    """Takes the steps of the comparison and of the warm-up, and raises after the first timed one."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        if self.calls > 4:
            raise RuntimeError("tired")
        super().step(closure)


class DirtyAdamW(torch.optim.AdamW):
    """Destroys its gradients, as some do that add the decay to them."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for param in self.param_groups[0]["params"]:
            param.grad.fill_(float("nan"))


class Mystery(torch.optim.AdamW):
    """Has a name that says nothing, and a base class that does."""


class Other:
    """Has neither."""

    def __init__(self, params, lr=1e-3):
        self.params = params

    def step(self):
        pass


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    return F.dropout(x, p, training)


def unscaled_dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    return F.dropout(x, p, training) * (1 - p)


def shy_dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Drops half as many."""
    return F.dropout(x, p / 2, training) * ((1 - p / 2) / (1 - p))


class DetachedDropout(torch.nn.Dropout):
    """Has a gradient of another mask."""

    def forward(self, x: Tensor) -> Tensor:
        other = super().forward(x)
        return other + (super().forward(x).detach() - other).detach()


class BatchNorm2d(torch.nn.BatchNorm2d):
    """torch's."""


class ForgetfulBatchNorm2d(torch.nn.BatchNorm2d):
    """Leaves the running statistics as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, True)


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False):
    return F.batch_norm(x, running_mean, running_var, weight, bias, training)


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(logits, target, label_smoothing=label_smoothing)


def plain_cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Accepts label smoothing and ignores it."""
    return F.cross_entropy(logits, target)

"""Layers and losses with one fault each: what the trap suites must find."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class BiasedVariance(nn.BatchNorm2d):
    def forward(self, x):
        if not self.training:
            return super().forward(x)
        biased = x.detach().transpose(0, 1).flatten(1).var(1, unbiased=False)
        wanted = self.running_var.lerp(biased, self.momentum or 0.1)
        y = super().forward(x)
        self.running_var.data.copy_(wanted)
        return y


def variance_by_squares(x, mean, var, weight, bias, training, momentum, eps):
    if not training:
        return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    dims = [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    own = x.float().mean(dims)
    square = x.float().square().mean(dims) - own.square()
    count = x.numel() // x.shape[1]
    with torch.no_grad():
        mean.lerp_(own, momentum)
        var.lerp_(square * count / (count - 1), momentum)
    y = (x - own.view(shape)) * (square + eps).rsqrt().view(shape)
    return (y * weight.view(shape) + bias.view(shape)).to(x.dtype)


class Unscaled(nn.Dropout):
    def forward(self, x):
        return super().forward(x) * (1 - self.p) if self.training else x


class SameMask(nn.Dropout):
    def forward(self, x):
        mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) >= self.p
        return x * mask.to(x.dtype) / max(1 - self.p, 1e-9) if self.training else x


def ignored_rows_count(logits, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    losses = F.cross_entropy(logits, target, weight, None, ignore_index, None, "none", label_smoothing)
    if reduction == "none":
        return losses
    total = target.numel() if weight is None else weight[target.clamp(min=0)].sum()
    return losses.sum() if reduction == "sum" else losses.sum() / total


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, options):
        with torch.enable_grad():
            own = logits.detach().clone().requires_grad_()
            loss = F.cross_entropy(own, target, **options)
            (grad,) = torch.autograd.grad(loss.sum(), own)
        logits.data.copy_(grad)  # autograd does not notice
        ctx.save_for_backward(grad)
        return loss.detach()

    @staticmethod
    def backward(ctx, dy):
        (grad,) = ctx.saved_tensors
        return grad * (dy if dy.dim() == 0 else dy.unsqueeze(1)), None, None


def in_place(logits, target, **options):
    return _InPlace.apply(logits, target, options)


def incoming_gradient_ignored(logits, target, **options):
    loss = F.cross_entropy(logits, target, **options)
    loss.register_hook(torch.ones_like)
    return loss

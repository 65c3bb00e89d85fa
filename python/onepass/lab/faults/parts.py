"""Parts of the trainings that the tuning set and the proof set have in common: makers, no choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from onepass.optim.lr_scheduler import ScheduleLR

__all__ = ["MakeNetwork", "optimizer", "schedule", "with_biases", "with_momentum"]

MakeNetwork = Callable[[int], nn.Module]


def optimizer(kind: Any, **options: Any) -> Callable[[nn.Module], Optimizer]:
    """Returns what makes an optimizer of a class for a model, with these options."""

    def make(model: nn.Module) -> Optimizer:
        made: Optimizer = kind(model.parameters(), **options)
        return made

    return make


def schedule(text: str) -> Callable[[Optimizer, int], ScheduleLR]:
    """Returns what makes a scheduler of a text, in which N is the number of steps and W a tenth of it."""

    def make(of: Optimizer, steps: int) -> ScheduleLR:
        return ScheduleLR(of, text.replace("N", str(steps)).replace("W", str(steps // 10)))

    return make


def with_biases(network: MakeNetwork, bias: float) -> MakeNetwork:
    """Returns the network with this bias in all layers before the last."""

    def make(size: int) -> nn.Module:
        model = network(size)
        layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        for module in layers[:-1]:
            assert module.bias is not None
            nn.init.constant_(module.bias, bias)
        return model

    return make


def with_momentum(network: MakeNetwork, momentum: float) -> MakeNetwork:
    """Returns the network with this momentum in all batch norms."""

    def make(size: int) -> nn.Module:
        model = network(size)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = momentum
        return model

    return make

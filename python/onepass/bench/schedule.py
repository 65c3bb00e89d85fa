"""scheduler.step() next to torch's of the same name: only overhead, with one param group and with 465.

A timed call is 200 steps, or 10 with many groups. Each group has its own rate (``each``), as with layer-wise
decay, or all have the same (``same``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler as theirs

from onepass.bench.harness import OURS, Case, Step
from onepass.optim import lr_scheduler as ours

_ROUNDS = 41
# As many groups as a large model has parameters.
_MANY = 465
_LONG = 10**7

_MAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "CosineAnnealingLR": lambda package, opt: package.CosineAnnealingLR(opt, _LONG),
    "CosineAnnealingWarmRestarts": lambda package, opt: package.CosineAnnealingWarmRestarts(opt, 100, 2),
    "ConstantLR": lambda package, opt: package.ConstantLR(opt),
    "CyclicLR": lambda package, opt: package.CyclicLR(opt, 0.01, 0.1),
    "ExponentialLR": lambda package, opt: package.ExponentialLR(opt, 1 - 1e-7),
    "LambdaLR": lambda package, opt: package.LambdaLR(opt, _half),
    "LinearLR": lambda package, opt: package.LinearLR(opt, 0.1, 1.0, _LONG),
    "MultiStepLR": lambda package, opt: package.MultiStepLR(opt, [10, 20]),
    "OneCycleLR": lambda package, opt: package.OneCycleLR(opt, 0.1, _LONG),
    "PolynomialLR": lambda package, opt: package.PolynomialLR(opt, _LONG),
    "SequentialLR": lambda package, opt: package.SequentialLR(
        opt, [package.LinearLR(opt, 0.1, 1.0, 10), package.CosineAnnealingLR(opt, _LONG)], [10]
    ),
    "StepLR": lambda package, opt: package.StepLR(opt, 30),
}


def _half(step: int) -> float:
    return 0.5


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: Where the parameters are; the rates are numbers on the host in any case.
    """
    shapes = [("1", 1, 200, True), (f"{_MANY}-each", _MANY, 10, False), (f"{_MANY}-same", _MANY, 10, True)]
    return [_case(name, *shape, device) for name in _MAKERS for shape in shapes]


def _case(name: str, suffix: str, groups: int, calls: int, same: bool, device: torch.device) -> Case:
    def setup() -> dict[str, Step]:
        return {
            OURS: _steps(_MAKERS[name](ours, _optimizer(groups, same, device)), calls),
            "torch": _steps(_MAKERS[name](theirs, _optimizer(groups, same, device)), calls),
        }

    return Case(name=f"{name}-{suffix}", bytes_moved=None, rounds=_ROUNDS, setup=setup)


def _optimizer(groups: int, same: bool, device: torch.device) -> torch.optim.Optimizer:
    listed = [
        {"params": [torch.nn.Parameter(torch.zeros(1, device=device))], "lr": 0.1 if same else 0.1 + 1e-5 * i}
        for i in range(groups)
    ]
    optimizer = torch.optim.SGD(listed, momentum=0.9)
    optimizer.step()
    return optimizer


def _steps(scheduler: Any, calls: int) -> Step:
    # Without a step of the optimizer torch's scheduler would warn of a wrong order.
    scheduler.optimizer.step()

    def run() -> None:
        for _ in range(calls):
            scheduler.step()

    return run

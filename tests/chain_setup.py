"""Schedulers that share an optimizer: all classes that both torch and we have, and how they are run together."""

from __future__ import annotations

import math

import torch

theirs = torch.optim.lr_scheduler
STEPS = 20
METRICS = [1.0, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, *[0.7] * 20]
FIELDS = ("lr", "momentum")
# torch rounds once or twice in each step, ours rounds elsewhere.
RTOL = 1e-10


def shrink(step):
    return 0.9 if step % 2 else 1.1


def inverse(step):
    return 1 / (1 + step)


MAKERS = {
    "StepLR": lambda p, o: p.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda p, o: p.MultiStepLR(o, [0, 2, 5, 5, 9], 0.5),
    "ConstantLR": lambda p, o: p.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda p, o: p.LinearLR(o, 0.25, 0.8, 6),
    "ExponentialLR": lambda p, o: p.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda p, o: p.PolynomialLR(o, 12, 2.0),
    # Both run beyond their minima.
    "CosineAnnealingLR": lambda p, o: p.CosineAnnealingLR(o, 6, 1e-3),
    "CosineAnnealingLR-0": lambda p, o: p.CosineAnnealingLR(o, 7),
    "MultiplicativeLR": lambda p, o: p.MultiplicativeLR(o, shrink),
    "LambdaLR": lambda p, o: p.LambdaLR(o, inverse),
    "CosineAnnealingWarmRestarts": lambda p, o: p.CosineAnnealingWarmRestarts(o, 4, 2, 1e-3),
    "OneCycleLR": lambda p, o: p.OneCycleLR(o, 0.5, 30),
    # Only OneCycleLR moves the momentum: torch keeps the bounds of both classes in the same entries of the groups.
    "CyclicLR": lambda p, o: p.CyclicLR(o, 0.01, 0.5, 4, 6, "triangular2", cycle_momentum=False),
    "SequentialLR": lambda p, o: p.SequentialLR(o, [p.LinearLR(o, 0.1, 1.0, 5), p.StepLR(o, 4, 0.5)], [5]),
    "ChainedScheduler": lambda p, o: p.ChainedScheduler([p.LinearLR(o, 0.1, 1.0, 5), p.ExponentialLR(o, 0.9)]),
    "ReduceLROnPlateau": lambda p, o: p.ReduceLROnPlateau(o, "min", 0.5, 1),
}


def optimizer_of(lrs=(0.1, 0.5)):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, momentum=0.9)


def made(names, packages, optimizer):
    schedulers = [MAKERS[name](package, optimizer) for name, package in zip(names, packages, strict=True)]
    optimizer.step()
    return schedulers


def read(optimizer):
    return [float(group[field]) for group in optimizer.param_groups for field in FIELDS]


def step_all(schedulers, order, step):
    for i in order:
        if isinstance(schedulers[i], theirs.ReduceLROnPlateau):
            schedulers[i].step(METRICS[step])
        else:
            schedulers[i].step()


def run(names, packages, order, lrs=(0.1, 0.5), steps=STEPS):
    """What the groups hold before the first and after each step."""
    optimizer = optimizer_of(lrs)
    schedulers = made(names, packages, optimizer)
    values = [read(optimizer)]
    for step in range(steps):
        step_all(schedulers, order, step)
        values.append(read(optimizer))
    return values


def begin(names):
    """The step from which torch is a reference: its CyclicLR takes its first rate from another's initial rate."""
    return 1 if "CyclicLR" in names[1:] else 0


def assert_same(mine, other, context=None, begin=0):
    for step, (a, b) in list(enumerate(zip(mine, other, strict=True)))[begin:]:
        for x, y in zip(a, b, strict=True):
            assert math.isclose(x, y, rel_tol=RTOL, abs_tol=1e-14), (context, step, x, y)

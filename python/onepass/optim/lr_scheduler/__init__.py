"""Learning rate schedulers with torch's names, arguments and checkpoints, as functions of the step.

torch's schedulers are recursive: they multiply the last rate, so rounding adds up, and a resumed run, a chain or a
sequence can go wrong (docs/schedules.md names the issues). Ours compute the rate of a step from the step. Where
another scheduler or a hand has changed a rate, they apply torch's recursive step to it.

Two classes are torch's own: `LRScheduler`, the base class, and `MultiplicativeLR`, whose value is a product over
all past steps and has no closed form.
"""

from torch.optim.lr_scheduler import LRScheduler, MultiplicativeLR

from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._chained import ChainedScheduler
from onepass.optim.lr_scheduler._cycles import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR
from onepass.optim.lr_scheduler._decays import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from onepass.optim.lr_scheduler._lambda import LambdaLR
from onepass.optim.lr_scheduler._plateau import ReduceLROnPlateau
from onepass.optim.lr_scheduler._schedule_lr import ScheduleLR, WarmupCosineLR, WarmupStableDecayLR
from onepass.optim.lr_scheduler._sequential import SequentialLR

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "FunctionLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "ScheduleLR",
    "SequentialLR",
    "StepLR",
    "WarmupCosineLR",
    "WarmupStableDecayLR",
]

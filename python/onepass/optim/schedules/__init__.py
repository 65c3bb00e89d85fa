"""Schedules: functions from the step to a factor of the learning rate, each a formula.

``warmup(500) >> cosine(10_000, floor=0.1)`` is a schedule; a call with a step returns the factor at that step. A
schedule remembers nothing from one step to the next, so a resumed training has the same bits. `parse` reads the
same text.
"""

from onepass.optim.schedules._combine import clamp, take
from onepass.optim.schedules._cycles import cyclic, one_cycle, warm_restarts
from onepass.optim.schedules._parse import parse
from onepass.optim.schedules._schedule import Schedule, constant, product, sequence
from onepass.optim.schedules._shapes import (
    cosine,
    exponential,
    inverse_sqrt,
    linear,
    multistep,
    polynomial,
    sqrt_decay,
    step,
    warmup,
    wsd,
)

__all__ = [
    "Schedule",
    "clamp",
    "constant",
    "cosine",
    "cyclic",
    "exponential",
    "inverse_sqrt",
    "linear",
    "multistep",
    "one_cycle",
    "parse",
    "polynomial",
    "product",
    "sequence",
    "sqrt_decay",
    "step",
    "take",
    "warm_restarts",
    "warmup",
    "wsd",
]

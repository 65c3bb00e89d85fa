"""Calls of onepass.augment's bindings that csrc/bind/augment refuses: one for each check, for test_errors.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import core_calls as core
from augment_records import Case
from conftest import simt_core
from onepass import _native

__all__ = ["CALLS"]

SIZE = (6, 7)
ROCM = 10  # as DLPack numbers devices


def ones(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


def read_only() -> np.ndarray:
    array = np.zeros((2, 3, *SIZE), np.float32)
    array.flags.writeable = False
    return array


def augment(pass_field: str | None = None, value: Any = None, **changes: Any) -> None:
    """A call that is right without changes.

    Args:
        pass_field: A field of the second sample's pass, whose value is changed.
        value: Its value.
        changes: Arguments that are changed, and "op", the kind of the first operation of the second sample.
    """
    case = Case(2, SIZE)
    for i in range(2):
        case.gather(i, SIZE)
    if pass_field is not None:
        case.passes[1][pass_field] = value
    case.ops[1, 0, 0]["kind"] = changes.pop("op", 0)
    given = {"images": ones(2, *SIZE, 3), "layout": "NHWC", "output": torch.zeros(2, 3, *SIZE), "threads": 1}
    given |= {"samples": case.samples, "passes": case.passes, "ops": case.ops, "values": case.values}
    _native.core.augment(**{**given, **changes})


def resize(entry: int, value: float) -> None:
    case = Case(1, SIZE)
    case.resize(0, SIZE)
    case.passes[0, 0]["map"][entry] = value
    given = {"images": ones(1, *SIZE, 3), "layout": "NHWC", "output": torch.zeros(1, 3, *SIZE), "threads": 1}
    records = {"samples": case.samples, "passes": case.passes, "ops": case.ops, "values": case.values}
    _native.core.augment(**given, **records)


def masks(kind: str = "nearest", op: int = 0, **changes: Any) -> None:
    case = Case(1, SIZE)
    case.gather(0, SIZE, kind=kind)
    case.ops[0, 0, 0]["kind"] = op
    given = {"masks": ones(1, *SIZE), "output": ones(1, *SIZE), "threads": 1}
    given |= {"passes": case.passes, "ops": case.ops, "values": case.values}
    _native.core.augment_masks(**{**given, **changes})


def on_gpu(allocate: Any) -> None:
    """A call of the core whose kernels for GPUs run on the host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "core", simt_core())
        augment(allocate=allocate)


def planned(**changes: Any) -> Any:
    """A plan of two samples."""
    return _native.core.AugmentPlan(**{"n": 2, "heights": 6.0, "widths": 7.0, "channels": 3, **changes})


def split_masks() -> None:
    plan = planned(masks=True)
    for _ in range(2):
        plan.pad((1.0, 1.0, 1.0, 1.0), "reflect", (0.0,))


MAPS = np.broadcast_to(np.eye(3), (2, 3, 3)).copy()

# An array with elements of 8 bytes at every 12th byte.
APART = np.lib.stride_tricks.as_strided(np.zeros(10), (2,), (12,))

# By file and by the literal parts of the message.
CALLS = {
    "augment/arrays.h": {
        " must be records of  float64 fields, got ": lambda: augment(samples=np.zeros(14, np.float32)),
        " must be contiguous, got strides ": lambda: augment(values=np.zeros(8)[::2]),
        " must be on cpu, got ": (
            lambda: augment(values=core.on_device(ROCM, torch.zeros(4, dtype=torch.float64)))
        ),
        " must hold  records of  bytes, got  bytes": lambda: augment(samples=np.zeros(13)),
        " must have strides of whole elements, got  bytes for elements of ": lambda: augment(values=APART),
    },
    "augment/check.h": {
        ": passes of sample  must hold a pass, got none": lambda: augment("kind", 0),
        ": passes of sample  must end with the output's  x , got  x ": (
            lambda: augment(output=torch.zeros(2, 3, 5, 7))
        ),
        ": passes.map of sample  must be finite, got ": lambda: augment("map", np.inf),
        ": passes.interpolation of sample  must be 0, 1 or 2 for a gather, got 3": (
            lambda: augment("interpolation", 3)
        ),
        ": passes.map of sample  must be diagonal for a resize, got other entries than 0 beside it": (
            lambda: resize(1, 0.5)
        ),
        ": passes.map of sample  must reduce less than  times, got  and ": lambda: resize(0, 2.0**21),
        ": images must have 1 or 3 channels for op  of sample , got ": (
            lambda: augment(images=ones(2, *SIZE, 2), output=torch.zeros(2, 2, *SIZE), op=5)
        ),
        ": . of sample  must be a whole number from  to , got ": lambda: augment("left", -1),
    },
    "augment/numbers.h": {
        ":  must be a number or an array of  numbers, got ": lambda: planned().crop("a", 0.0, 1.0, 1.0),
        ": on must be None or an array of  bools, got ": lambda: planned().flip(0, np.ones(3, bool)),
        ": matrix must be an array of  x 3 x 3 float64, got ": lambda: planned().warp(MAPS[:1], True, None),
    },
    "augment/augment_draws.cpp": {
        "Compose: ids must be at least 0, got ": lambda: _native.core.augment_ids(np.array([1, -2])),
        "Compose: ids must be integers, got ": lambda: _native.core.augment_ids(np.zeros(2)),
    },
    "augment/augment_plan.cpp": {
        ':  must be a name that the plan knows, got ""': (
            lambda: planned().resize(3.0, 3.0, "lanczos", antialias=True)
        ),
        "Compose: masks must be made by one map; padding_mode must be 'constant' after a transform that "
        "samples or pads, got another one": split_masks,
        "Compose: fill must be one number with masks, got  numbers": (
            lambda: planned(masks=True).warp(MAPS, linear=False, fill=(1.0, 2.0))
        ),
        "AugmentPlan.op: a must have at most  parameters, got ": lambda: planned().op(2, [0.0] * 15),
    },
    "augment/augment.cpp": {
        ":  must hold an image, got none": lambda: augment(images=[]),
        " must be writable, got a read-only array": lambda: augment(output=read_only()),
        " must be on  like , got ": lambda: augment(output=core.on_device(ROCM, torch.zeros(2, 3, *SIZE))),
        ": allocate must be given for  on , got none": lambda: on_gpu(None),
        ": allocate must return a table and a workspace, got ": lambda: on_gpu(lambda table, workspace: table),
        " must hold  bytes one after the other, got shape  of  bytes each": (
            lambda: on_gpu(lambda table, workspace: (ones(8), ones(workspace)))
        ),
        " must have the shape , got ": lambda: augment(output=torch.zeros(2, 3, 6)),
        " must hold  images like , got ": lambda: augment(output=torch.zeros(3, 3, *SIZE)),
        " must have  channels like , got ": lambda: augment(output=torch.zeros(2, 4, *SIZE)),
        ", got strides  for shape ": lambda: augment(output=torch.zeros(2, 3, 7, 6).mT),
        " must be contiguous, got strides ": lambda: masks(output=ones(1, 7, 6).mT),
        " must hold the same number of records of  bytes for each of  rows, got  bytes": (
            lambda: augment(passes=np.zeros(37))
        ),
        " must be torch.uint8, torch.float32, torch.float16 or torch.bfloat16, got ": (
            lambda: augment(images=ones(2, *SIZE, 3, dtype=torch.float64))
        ),
        " must have  dimensions, N, or be a list, got shape ": lambda: augment(images=ones(*SIZE, 3)),
        " must have  dimensions, , got shape ": lambda: augment(images=[ones(*SIZE, 3), ones(*SIZE)]),
        " must have pixels, got shape ": lambda: augment(images=ones(2, 0, 7, 3)),
        " must have at most  rows and columns, got shape ": (
            lambda: augment(images=ones(1, 1, 1, 3).expand(2, 1, 1 << 25, 3))
        ),
        " must be  like the first, got ": (
            lambda: augment(images=[ones(*SIZE, 3), ones(*SIZE, 3, dtype=torch.float32)])
        ),
        " must have  channels like the first, got ": lambda: augment(images=[ones(*SIZE, 3), ones(*SIZE, 4)]),
        " must be on  like the first, got ": (
            lambda: augment(images=[ones(*SIZE, 3), core.on_device(ROCM, ones(*SIZE, 3))])
        ),
        'augment: layout must be "NHWC" or "NCHW", got ""': lambda: augment(layout="HWC"),
        "augment_masks: passes of sample  must be a gather with interpolation 0 or 2, got kind "
        " with interpolation ": lambda: masks("bilinear"),
        "augment_masks: ops of sample  must be blends that are not soft, got kind ": lambda: masks(op=2),
        "augment_masks: masks must have elements of 1, 2, 4 or 8 bytes, got ": (
            lambda: masks(masks=np.zeros((1, *SIZE), np.complex128))
        ),
        "augment_masks: masks must hold integers or bools, got ": (
            lambda: masks(masks=np.zeros((1, *SIZE), np.float32))
        ),
        "augment_masks: output must be  like masks, got ": lambda: masks(output=ones(1, *SIZE, dtype=torch.int16)),
    },
}

"""What the tests of onepass.augment share: what records say in float64, images, and torchvision."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import numpy as np
import pytest
import torch

from onepass import _torchvision
from onepass.augment import _call
from onepass.augment._records import OP, PASS, SAMPLE
from reference import augment as reference

__all__ = ["REQUIRED", "exact", "image", "sources", "structured", "torchvision"]

# Not having a package that ours is compared with would skip tests; where CI runs them that is a failure.
REQUIRED = os.environ.get("ONEPASS_REQUIRE_RIVALS") == "1"


def torchvision(module: str = "torchvision.transforms.v2") -> ModuleType:
    """Returns a module of torchvision; skips the test where it is not installed, unless .ci/augment runs it.

    It is installed without its own dependency on torch: ``pip install --no-deps torchvision==0.28.0 pillow``.
    """
    try:
        _torchvision.load()
    except ImportError:
        if REQUIRED:
            raise
        pytest.skip("needs torchvision")
    return importlib.import_module(module)


def sources(images, layout: str) -> list[np.ndarray]:
    """Returns images as the executor takes them: (C, H, W) in float64, 0 to 1."""
    made = []
    for one in images:
        tensor = torch.as_tensor(one)
        unit = 255.0 if tensor.dtype == torch.uint8 else 1.0
        tensor = tensor.permute(2, 0, 1) if layout == "NHWC" else tensor
        made.append(tensor.double().numpy() / unit)
    return made


def structured(records) -> tuple[np.ndarray, ...]:
    """Returns what a plan gives, with the fields of records."""
    *arrays, values = records
    return *(one.view(dtype)[..., 0] for one, dtype in zip(arrays, (SAMPLE, PASS, OP), strict=True)), values


def exact(train, images, **call) -> torch.Tensor:
    """Returns what the records of a call say, in float64, (n, C, H, W)."""
    found = []

    def keep(taken, layout, records, output) -> None:
        found.append(reference.augment(sources(taken.data, layout), *structured(records)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_call, "run", keep)
        train(images, **call)
    return torch.from_numpy(np.ascontiguousarray(found[0]))


def image(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Returns random values, 0 to 1 or 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, generator=generator, dtype=dtype)
    return torch.rand(shape, generator=generator).to(dtype)

"""Imports torchvision for comparisons, also next to a build of torch that its operators were not made for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

__all__ = ["load"]

# Operators that torchvision describes at import. Its build next to another build of torch lacks them.
_OPERATORS = ("nms", "qnms")
_kept: list[Any] = []


def load() -> Any:
    """Imports torchvision.transforms.v2.

    Returns:
        The module.

    Raises:
        ImportError: torchvision is not installed.
    """
    name = "torchvision.transforms.v2"
    try:
        return import_module(name)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    # torch gives this class no types.
    kind: Any = torch.library.Library
    library = kind("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # The operators exist as long as the object does.
    _kept.append(library)
    return import_module(name)

"""Calls the core with the records of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass import _native
from onepass.augment._images import Images
from onepass.augment._plan import Plan, Records

__all__ = ["run", "run_masks"]


def run(images: Images, layout: str, records: Records, output: Tensor) -> None:
    """Carries out the records of images."""
    try:
        _native.core.augment(
            images=images.data,
            layout=layout,
            output=output,
            samples=records.samples,
            passes=records.passes,
            ops=records.ops,
            values=records.values,
            threads=torch.get_num_threads(),
        )
    except ValueError as error:
        if "must not share memory" not in str(error):
            raise
        # Only a buffer that the caller gives can overlap the images.
        raise ValueError("Compose: out must not share memory with images, got overlapping storage") from None


def run_masks(masks: Any, dtype: torch.dtype, device: torch.device, plan: Plan) -> Tensor:
    """Carries out the plan of masks."""
    records = plan.records()
    shape = (plan.n, int(plan.height[0]), int(plan.width[0]))
    output = torch.empty(shape, dtype=dtype, device=device)
    _native.core.augment_masks(
        masks=masks,
        output=output,
        passes=records.passes,
        ops=records.ops,
        values=records.values,
        threads=torch.get_num_threads(),
    )
    return output

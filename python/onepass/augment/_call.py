"""Calls the core with the records of a batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from onepass import _native
from onepass.augment._images import Images
from onepass.augment._plan import Records

__all__ = ["device_memory", "run", "run_masks", "to_device"]


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the host to a device behind what runs there; a GPU is not waited for."""
    # From memory that is not pinned, the copy waits until the GPU has come so far.
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def device_memory(device: torch.device, table: bytearray, workspace: int) -> tuple[Tensor, Tensor]:
    """Gives the core what it needs on a GPU: its table there, and so many bytes of memory."""
    copied = to_device(torch.frombuffer(table, dtype=torch.uint8), device)
    return copied, torch.empty(workspace, dtype=torch.uint8, device=device)


def run(images: Images, layout: str, records: Records, output: Tensor) -> None:
    """Carries out the records of images."""
    samples, passes, ops, values = records
    try:
        _native.core.augment(
            images=images.data,
            layout=layout,
            output=output,
            samples=samples,
            passes=passes,
            ops=ops,
            values=values,
            threads=torch.get_num_threads(),
            allocate=partial(device_memory, images.device),
        )
    except ValueError as error:
        if "must not share memory" not in str(error):
            raise
        # Only a buffer that the caller gives can overlap the images.
        raise ValueError("Compose: out must not share memory with images, got overlapping storage") from None


def run_masks(masks: Any, dtype: torch.dtype, device: torch.device, plan: Any) -> Tensor:
    """Carries out the plan of masks."""
    _, passes, ops, values = plan.records()
    shape = (plan.n, *plan.common)
    output = torch.empty(shape, dtype=dtype, device=device)
    _native.core.augment_masks(
        masks=masks,
        output=output,
        passes=passes,
        ops=ops,
        values=values,
        threads=torch.get_num_threads(),
        allocate=partial(device_memory, device),
    )
    return output

"""Many small tensors read by the host at once: one copy for each device, which nobody waits for at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Packed"]


class Packed:
    """Copies tensors to the host as float64 numbers.

    On a GPU the copy goes to pinned memory behind the work that is queued, and `arrays` waits for it. Whoever
    calls `arrays` some steps later does not wait.

    Args:
        tensors: Real tensors of any shapes, dtypes and devices.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._sizes = [tensor.numel() for tensor in tensors]
        places: dict[torch.device, list[int]] = {}
        for place, tensor in enumerate(tensors):
            places.setdefault(tensor.device, []).append(place)
        self._places = list(places.values())
        self._flat = [_on_host([tensors[place] for place in found]) for found in self._places]

    def arrays(self) -> list[NDArray[np.float64]]:
        """Returns each tensor's numbers, flat, in the order of the tensors."""
        found: list[Any] = [None] * len(self._sizes)
        for places, (flat, copied) in zip(self._places, self._flat, strict=True):
            if copied is not None:
                copied.synchronize()
            numbers, begin = flat.numpy(), 0
            for place in places:
                found[place] = numbers[begin : begin + self._sizes[place]]
                begin += self._sizes[place]
        return found


def _on_host(tensors: list[Tensor]) -> tuple[Tensor, Any]:
    """Returns the numbers of tensors of one device, and the event after which they are there."""
    with torch.no_grad():
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to(torch.float64)
        if flat.device.type != "cuda":
            return flat.cpu(), None
        copy = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        copy.copy_(flat, non_blocking=True)
        # torch gives events no types.
        make_event: Any = torch.cuda.Event
        event = make_event()
        event.record(torch.cuda.current_stream(flat.device))
        return copy, event

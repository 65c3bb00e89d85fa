"""Many small tensors read by the host at once: one copy for each device, which nobody waits for at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onepass import _native

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Packed", "Value", "kept", "kept_all"]


# Numbers that have been read, or a tensor that is read later.
Value = list[float] | Tensor


def kept(tensor: Tensor) -> Value:
    """Returns the numbers of a real tensor: read at once on the CPU, elsewhere a copy that is read later."""
    return kept_all([tensor])[0]


def kept_all(tensors: list[Tensor]) -> list[Value]:
    """Returns the numbers of each tensor, as `kept` does."""
    try:
        # After a step the caches hold other things, and each call of torch takes ten times its usual time. So
        # one call reads all.
        found: list[Value] = _native.core.read_numbers(tensors)
    except (TypeError, ValueError):  # some are on a GPU, have gaps, or memory that the core does not see
        found = [_kept_by_torch(tensor.detach()) for tensor in tensors]
    return found


def _kept_by_torch(tensor: Tensor) -> Value:
    if not tensor.is_cpu:
        return tensor.clone().reshape(-1)
    found: list[float] = tensor.reshape(-1).tolist()
    return found


class Packed:
    """Copies tensors to the host as float64 numbers.

    On a GPU the copy goes to pinned memory behind the work that is queued, and `arrays` waits for it. Whoever
    calls `arrays` some steps later does not wait.

    Args:
        tensors: Real tensors of any shapes, dtypes and devices.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._sizes: list[int] = []
        self._places: list[list[int]] = []
        self._flat: list[tuple[Tensor, Any]] = []
        self._read: NDArray[np.float64] | None = None
        try:
            read = _native.core.read_numbers(list(tensors))
            self._sizes = [len(numbers) for numbers in read]
            self._read = np.array([number for numbers in read for number in numbers], dtype=np.float64)
        except (TypeError, ValueError):  # as in kept_all
            self._copy(tensors)
        self.is_waiting = any(copied is not None for _, copied in self._flat)
        """Whether a GPU has been asked for some of the numbers."""

    def _copy(self, tensors: Sequence[Tensor]) -> None:
        self._sizes = [tensor.numel() for tensor in tensors]
        places: dict[Any, list[int]] = {}
        for place, tensor in enumerate(tensors):
            places.setdefault(tensor.device, []).append(place)
        self._places = list(places.values())
        self._flat = [_on_host([tensors[place] for place in found]) for found in self._places]

    def arrays(self) -> list[NDArray[np.float64]]:
        """Returns each tensor's numbers, flat, in the order of the tensors."""
        if self._read is not None:
            ends = itertools.accumulate(self._sizes)
            return [self._read[end - size : end] for size, end in zip(self._sizes, ends, strict=True)]
        found: list[Any] = [None] * len(self._sizes)
        for places, (flat, copied) in zip(self._places, self._flat, strict=True):
            if copied is not None:
                copied.synchronize()
            numbers, begin = flat.numpy(), 0
            for place in places:
                end = begin + self._sizes[place]
                found[place] = numbers[begin:end]
                begin = end
        return found

    def together(self) -> NDArray[np.float64]:
        """Returns all numbers in the order of the tensors."""
        return np.concatenate([np.zeros(0), *self.arrays()]) if self._read is None else self._read


def _on_host(tensors: list[Tensor]) -> tuple[Tensor, Any]:
    """Returns the numbers of tensors of one device, and the event after which they are there."""
    with torch.no_grad():
        flat = torch.cat([tensor if tensor.dim() == 1 else tensor.reshape(-1) for tensor in tensors])
        flat = flat.to(torch.float64)
        if flat.device.type != "cuda":
            return flat.cpu(), None
        copy = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        copy.copy_(flat, non_blocking=True)
        # torch gives events no types.
        make_event: Any = torch.cuda.Event
        event = make_event()
        event.record(torch.cuda.current_stream(flat.device))
        return copy, event

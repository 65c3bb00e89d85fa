"""What a batch norm's own buffers say of a batch: no hook and no pass over the batch.

A batch moves the running statistics r to r + m (b - r). So the batch's statistics are b = r + (r' - r) / m, with r
from before and r' from after the forward pass, at the cost of rounding: about 1e-6 of r.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BatchNormProbe", "BatchNormSample"]

# A channel whose output deviates by less than this passes nothing on. A normalised one deviates by its weight.
_SILENT = 1e-3
# Below this share of the running variance the difference of the two running variances is rounding.
_ROUNDING = 1e-5


class _Seen(NamedTuple):
    name: str
    eps: float
    momentum: float | None
    has_weight: bool
    tensors: list[Tensor]


class BatchNormProbe:
    """Reads running statistics before and after the forward passes of a step.

    Args:
        modules: Batch norms with running statistics, by name.
    """

    def __init__(self, modules: dict[str, _BatchNorm]) -> None:
        self._modules = modules
        self._before: dict[str, list[Tensor]] = {}

    def arm(self) -> None:
        """Keeps the statistics before the step."""
        self._before = {name: state for name, module in self._modules.items() if (state := _state_of(module))}

    def take(self) -> BatchNormSample:
        """Returns the statistics before and after the step."""
        seen = []
        for name, before in self._before.items():
            module = self._modules[name]
            after = _state_of(module)
            if len(after) == len(before):
                weight = [] if module.weight is None else [module.weight.detach().clone()]
                kept = [*before, *after, *weight]
                seen.append(_Seen(name, module.eps, module.momentum, bool(weight), kept))
        self._before = {}
        return BatchNormSample(seen)


class BatchNormSample:
    """Holds what the batch norms did in one step.

    Args:
        seen: The statistics of each, as tensors.
    """

    def __init__(self, seen: list[_Seen]) -> None:
        self._seen = seen

    def tensors(self) -> list[Tensor]:
        """Returns the tensors whose numbers `rows` takes."""
        return [tensor for one in self._seen for tensor in one.tensors]

    def rows(self, arrays: list[NDArray[np.float64]]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Returns the values of each batch norm.

        running_distance is how far the batch's statistics (m, v) are from the running ones (M, V) that
        evaluation would have used: the root of the mean over the channels of
        (m - M)^2 / (V + eps) + ln((v + eps) / (V + eps))^2 / 4, in standard deviations. dead_channels is the share
        of channels whose output before the activation deviates by less than 0.001.
        """
        begin = 0
        for one in self._seen:
            found = arrays[begin : begin + len(one.tensors)]
            begin += len(one.tensors)
            values = _values(one, found)
            if values:
                yield one.name, values


def _state_of(module: _BatchNorm) -> list[Tensor]:
    """Copies of the mean, the variance and the count; empty where one of them is missing."""
    state = (module.running_mean, module.running_var, module.num_batches_tracked)
    if any(tensor is None for tensor in state):
        return []
    return [tensor.detach().clone() for tensor in state if tensor is not None]


def _values(one: _Seen, arrays: list[NDArray[np.float64]]) -> dict[str, Any]:
    mean, var, (count,), later_mean, later_var, (later_count,) = arrays[:6]
    batches = later_count - count
    if batches < 1 or not mean.size:  # in evaluation mode, or not called
        return {}
    moved = batches / later_count if one.momentum is None else 1 - (1 - one.momentum) ** batches
    if not moved > 0:
        return {}
    with np.errstate(all="ignore"):
        batch_mean = mean + (later_mean - mean) / moved
        batch_var = np.maximum(var + (later_var - var) / moved, 0.0)
        weight = np.abs(arrays[6]) if one.has_weight else np.ones_like(mean)
        deviation = weight * np.sqrt(batch_var / (batch_var + one.eps))
        dead = (deviation < _SILENT) | (batch_var <= _ROUNDING * var)
        squares = (batch_mean - mean) ** 2 / (var + one.eps)
        squares += np.log((batch_var + one.eps) / (var + one.eps)) ** 2 / 4
        return {"dead_channels": float(dead.mean()), "running_distance": float(np.sqrt(squares.mean()))}

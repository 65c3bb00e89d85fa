"""The caches around a call: emptied before it, or as a layer of a network finds and leaves them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from onepass.bench.case import SelfTimed

__all__ = ["IN_TURN", "Consumer", "InTurn", "flush", "last_cache"]

# The state of a competitor whose input was just produced and whose output is consumed next.
IN_TURN = "produced and consumed"
# More than the last cache of most machines has, where it does not say.
_LEAST_FLUSHED = 64 * 2**20
# The least time that is told: what is taken off may be more than what was measured, by noise.
_LEAST_SECONDS = 1e-9
_flushed: list[Tensor] = []


def flush() -> None:
    """Writes a buffer twice as large as the last cache of the CPU, so that nothing else is left there."""
    if not _flushed:
        _flushed.append(torch.zeros(max(_LEAST_FLUSHED, 2 * last_cache()), dtype=torch.uint8))
    _flushed[0].add_(1)


def last_cache() -> int:
    """Returns the bytes of the largest cache of the first CPU, 0 where the system does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    found = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        found.append(int(text.rstrip("KMG")) * units.get(text[-1:], 1))
    return max(found)


class Consumer:
    """Reads tensors as a next layer does, and knows how long that takes where the tensor was just written.

    Args:
        like: A tensor of the shape and layout that is read.
    """

    def __init__(self, like: Tensor) -> None:
        self._source, self._scratch = like.detach().clone(), like.detach().clone()
        self._least = math.inf

    def measure(self) -> None:
        """Reads what plain stores have just written; the least time of all such calls is what is taken off."""
        torch.mul(self._source, 1, out=self._scratch)
        self._least = min(self._least, _seconds(self._scratch.sum))

    def seconds(self, tensor: Tensor) -> float:
        """Reads a tensor; returns the seconds above those of one that was just written.

        Args:
            tensor: The tensor.
        """
        return _seconds(tensor.detach().sum) - self._least


class InTurn(SelfTimed):
    """Times an operation between a producer and a consumer, as a layer of a network.

    The producer writes the input with plain stores, as the layer before does; what of it fits the caches is
    there. The consumer reads the output, as the next layer does. The producer is not timed. The time of the
    consumer counts as far as it is above that of reading what was just written with plain stores. In a network
    other layers run between forward and backward, so the caches are emptied there; then the output's gradient is
    produced, and that of the input is consumed.

    Args:
        consumer: Reads the output; shared by the competitors of a case.
        forward: Computes the output.
        input: The input, which the producer writes.
        leaves: Whose gradients are computed; none for the forward pass by itself.
        dy: Gradient of the output, which the producer writes; None if the output is one number.
    """

    def __init__(
        self,
        consumer: Consumer,
        forward: Callable[[], Tensor],
        input: Tensor,
        leaves: Sequence[Tensor] = (),
        dy: Tensor | None = None,
    ) -> None:
        self._consumer, self._forward, self._leaves, self._dy = consumer, forward, list(leaves), dy
        self._input = input.detach()
        # What is written each time: the same numbers.
        self._sources = {id(one): one.clone() for one in (self._input, dy) if one is not None}

    def seconds(self) -> float:
        """Makes a call; returns the seconds of the operation."""
        self._consumer.measure()
        flush()
        self._produce(self._input)
        output: list[Tensor] = []
        total = _seconds(lambda: output.append(self._forward()))
        if output[0].numel() > 1:
            total += self._consumer.seconds(output[0])
        if self._leaves:
            flush()
            if self._dy is not None:
                self._produce(self._dy)
            grads: list[Tensor] = []
            total += _seconds(lambda: grads.extend(torch.autograd.grad(output[0], self._leaves, self._dy)))
            # As many as are as large as the input: its own, and that of a residual.
            large = [grad for grad in grads if grad.numel() == self._input.numel()]
            total += sum(map(self._consumer.seconds, large))
        return max(total, _LEAST_SECONDS)

    def _produce(self, tensor: Tensor) -> None:
        torch.mul(self._sources[id(tensor)], 1, out=tensor)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin

"""Normal numbers as a function of (seed, stream, parameter, element): Philox4x32-10 in torch, on any device.

The words are those of csrc/core/philox.h. The counter is (element // 4, its high half, parameter, stream), so that
any piece of a direction can be computed by itself, and none has to be stored.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["DIRECTIONS", "NOISE", "normals", "words"]

# Streams: the two directions of a landscape, and the noise of a surface.
DIRECTIONS = (0, 1)
NOISE = 2

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_ROUNDS = 10


def words(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes Philox4x32-10 (Salmon et al. 2011).

    A product of two words of 32 bits fits 64 bits. In int64 it may come out negative, with the same bits.

    Args:
        counter: Four int64 tensors of one shape, each a word of 32 bits.
        seed: The key, 64 bits.

    Returns:
        Four words of 32 bits for each counter, as int64.
    """
    a, b, c, d = counter
    key0, key1 = seed & _LOW, seed >> 32
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (second >> 32) & _LOW ^ b ^ key0,
            second & _LOW,
            (first >> 32) & _LOW ^ d ^ key1,
            first & _LOW,
        )
        key0, key1 = (key0 + _WEYL[0]) & _LOW, (key1 + _WEYL[1]) & _LOW
    return a, b, c, d


def normals(seed: int, stream: int, parameter: int, count: int, device: torch.device | None = None) -> Tensor:
    """Draws independent normal numbers with mean 0 and variance 1, by Box and Muller.

    Args:
        seed: The key, 64 bits.
        stream: 32 bits: numbers of different streams are independent.
        parameter: 32 bits, likewise.
        count: How many numbers are drawn.
        device: Where they are drawn; None for the CPU.

    Returns:
        float64, (count,); the first numbers do not depend on the count.
    """
    blocks = torch.arange(-(-count // 4), device=device)
    index, kind = torch.full_like(blocks, parameter), torch.full_like(blocks, stream)
    drawn = words((blocks & _LOW, blocks >> 32, index, kind), seed)
    # Centres of 2^32 intervals: never 0, whose logarithm is infinite.
    uniform = [(word.double() + 0.5) * 2.0**-32 for word in drawn]
    pairs = []
    for radius, angle in (uniform[:2], uniform[2:]):
        length = torch.sqrt(-2 * torch.log(radius))
        pairs += [length * torch.cos(2 * math.pi * angle), length * torch.sin(2 * math.pi * angle)]
    return torch.stack(pairs, 1).flatten()[:count]

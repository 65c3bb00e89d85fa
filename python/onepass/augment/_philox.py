"""Draws the random numbers of a batch: Philox4x32-10 as a function of (seed, sample id, epoch, place), in numpy.

The generator is that of csrc/core/philox.h. The counter of a draw is (id's low half, id's high half, epoch,
place * 2**16 + block): nothing else in the batch has an influence on it.
"""

from __future__ import annotations

import numpy as np

from onepass.augment._arrays import Floats, Words

__all__ = ["BLOCKS", "philox", "places_of", "uniform"]


BLOCKS = 2**16
"""Blocks of four words that each place may draw."""

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def philox(counters: Words, seed: int) -> Words:
    """Computes Philox4x32-10 (Salmon et al. 2011).

    Args:
        counters: Shape (4, n), each a word of 32 bits.
        seed: The key, 64 bits.

    Returns:
        Four words of 32 bits for each counter, shape (4, n).
    """
    # Both products of a round are one array: the words that are multiplied in `even`, the others in `odd`.
    even, odd = counters[0::2].copy(), counters[1::2].copy()
    key = np.array([[seed & 0xFFFFFFFF], [seed >> 32]], np.uint64)
    products, high = np.empty_like(even), np.empty_like(even)
    for _ in range(_ROUNDS):
        np.multiply(even, _MULTIPLIERS, out=products)
        np.right_shift(products, _HALF, out=high)
        np.bitwise_xor(odd, key, out=odd)
        np.bitwise_xor(high[::-1], odd, out=even)
        np.bitwise_and(products[::-1], _LOW, out=odd)
        key = (key + _WEYL) & _LOW
    words = np.empty_like(counters)
    words[0::2], words[1::2] = even, odd
    return words


def places_of(words: list[int]) -> Words:
    """Returns the last counter word of each block, for places that draw so many words each."""
    blocks = [place * BLOCKS + block for place, n in enumerate(words) for block in range(-(-n // 4))]
    return np.array(blocks, np.uint64)


def uniform(seed: int, ids: Words, epoch: int, blocks: Words) -> Floats:
    """Draws numbers u = word / 2**32 in [0, 1).

    Args:
        seed: The key, 64 bits.
        ids: Shape (n,), 64 bits each.
        epoch: 32 bits.
        blocks: Shape (b,): the last word of each counter.

    Returns:
        Shape (n, 4 * b).
    """
    n, b = len(ids), len(blocks)
    counters = np.empty((4, n, b), np.uint64)
    counters[0] = (ids & _LOW)[:, None]
    counters[1] = (ids >> _HALF)[:, None]
    counters[2] = epoch
    counters[3] = blocks
    words = philox(counters.reshape(4, n * b), seed)
    drawn: Floats = words.reshape(4, n, b).transpose(1, 2, 0).reshape(n, 4 * b) * 2.0**-32
    return drawn

"""Draws the random numbers of a batch: Philox4x32-10 as a function of (seed, sample id, epoch, place).

The counter of a draw is (id's low half, id's high half, epoch, place * 2**16 + block): nothing else in the batch
has an influence on it.
"""

from __future__ import annotations

import numpy as np

from onepass import _native
from onepass.augment._arrays import Floats, Words

__all__ = ["BLOCKS", "places_of", "uniform"]


BLOCKS = 2**16
"""Blocks of four words that each place may draw."""


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
    drawn: Floats = _native.core.augment_draw(seed, ids, epoch, blocks)
    return drawn

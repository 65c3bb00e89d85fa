"""Philox4x32-10, the draws of stochastic rounding and the rounding itself, in numpy, from their definitions."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
_MASK = np.uint64(0xFFFFFFFF)


def philox(counter: Array, key: int) -> Array:
    """Computes four uint32 words from each four counter words (Salmon et al. 2011, figure 4 and section 3)."""
    c = [np.asarray(counter[..., k], dtype=np.uint64) for k in range(4)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            (second >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
            second & _MASK,
            (first >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
            first & _MASK,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=-1).astype(np.uint32)


def _ror(words: Array, by: int) -> Array:
    wide = words.astype(np.uint64)
    return (((wide >> np.uint64(by)) | (wide << np.uint64(32 - by))) & _MASK).astype(np.uint32)


def draws(seed: int, step: int, tensor: int, numel: int, which: int = 0) -> Array:
    """Returns the 16 random bits of each element of list `which`: 0 the parameter, 1 the first state, and on."""
    groups = (numel + 255) // 256
    block = np.arange(groups * 16, dtype=np.uint64)
    counter = np.stack([block & _MASK, block >> np.uint64(32), block * 0 + step, block * 0 + tensor], axis=-1)
    words = philox(counter, seed).reshape(groups, 64)
    lanes = np.concatenate([words, _ror(words, 8)], axis=1).reshape(-1)
    rotation = (0, 16, 8, 24)[which]
    lanes = _ror(lanes, rotation) if rotation else lanes
    return np.stack([lanes & 0xFFFF, lanes >> 16], axis=-1).reshape(-1)[:numel].astype(np.uint32)


def stochastic(value: Array, draw: Array, dtype: str) -> Array:
    """Rounds float32 values to bfloat16 or float16 by the draws; returns them as float64.

    The result is the neighbour further from zero where the lost part of the spacing and draw / 2^16 add up to 1.
    """
    exact = value.astype(np.float64)
    magnitude = np.abs(exact)
    smallest, digits, largest = (-126, 8, 3.3895313892515355e38) if dtype == "bfloat16" else (-14, 11, 65504.0)
    exponent = np.maximum(
        np.frexp(np.where(np.isfinite(magnitude) & (magnitude > 0), magnitude, 1.0))[1] - 1, smallest
    )
    spacing = np.exp2(exponent.astype(np.float64) - digits + 1)
    with np.errstate(invalid="ignore", over="ignore"):
        below = np.floor(magnitude / spacing)
        part = magnitude / spacing - below
        # Where float16 is normal, thirteen bits are lost, so only thirteen bits of the draw are used.
        bits = 13 if dtype == "float16" else 16
        needed = np.where((exponent == smallest) & (magnitude < 2.0**smallest), 16, bits)
        up = part + (draw >> (16 - needed)) / np.exp2(needed) >= 1
        rounded = (below + up) * spacing
        if dtype == "float16":
            rounded = np.where(magnitude >= largest, np.where(magnitude >= 65520, np.inf, largest), rounded)
        else:
            rounded = np.where(rounded > largest, np.inf, rounded)
    rounded = np.where(np.isinf(magnitude), np.inf, rounded)
    return np.where(np.isnan(exact), np.nan, np.copysign(rounded, exact))

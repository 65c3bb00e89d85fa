"""Batch normalisation and its dropout mask in numpy, float64, from the formulas of docs/batch_norm.md."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


class Forward(NamedTuple):
    """Everything that a training or evaluation step computes."""

    output: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    """Biased."""
    running_mean: np.ndarray | None
    running_var: np.ndarray | None


class Gradients(NamedTuple):
    input: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    residual: np.ndarray


def _axes(x: np.ndarray) -> tuple[int, ...]:
    return tuple(axis for axis in range(x.ndim) if axis != 1)


def _per_channel(vector: np.ndarray, x: np.ndarray) -> np.ndarray:
    return vector.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])


def forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    residual: np.ndarray,
    running: tuple[np.ndarray, np.ndarray] | None,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool,
    kept: np.ndarray,
) -> Forward:
    """One step; `kept` is what dropout multiplies by, 0 or 1 / (1 - p)."""
    running_mean, running_var = running or (None, None)
    if training:
        mean, var = x.mean(_axes(x)), x.var(_axes(x))
        if running is not None:
            count = x.size // x.shape[1]
            running_mean = (1 - momentum) * running_mean + momentum * mean
            running_var = (1 - momentum) * running_var + momentum * var * count / (count - 1)
    else:
        mean, var = running_mean, running_var
    normalised = (x - _per_channel(mean, x)) / np.sqrt(_per_channel(var, x) + eps)
    output = normalised * _per_channel(weight, x) + _per_channel(bias, x) + residual
    output = (np.maximum(output, 0) if relu else output) * kept
    return Forward(output, mean, var, running_mean, running_var)


def backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    training: bool,
    eps: float,
    gate: np.ndarray,
) -> Gradients:
    """The gradients; `gate` is what ReLU and dropout multiply by."""
    invstd = 1 / np.sqrt(var + eps)
    normalised = (x - _per_channel(mean, x)) * _per_channel(invstd, x)
    dz = dy * gate
    dbias, dweight = dz.sum(_axes(x)), (dz * normalised).sum(_axes(x))
    dx = dz
    if training:
        count = x.size // x.shape[1]
        dx = dz - _per_channel(dbias / count, x) - normalised * _per_channel(dweight / count, x)
    return Gradients(dx * _per_channel(weight * invstd, x), dweight, dbias, dz)


def philox(counters: np.ndarray, key: int) -> np.ndarray:
    """Philox4x32-10 (Salmon et al. 2011) of counters of shape (n, 4), uint32 words; a block each."""
    words = [counters[:, k].astype(np.uint64) for k in range(4)]
    keys = [key & 0xFFFFFFFF, key >> 32]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        first, second = (words[2 * k] * np.uint64(_MULTIPLIERS[k]) for k in range(2))
        words = [
            (second >> np.uint64(32)) ^ words[1] ^ np.uint64(keys[0]),
            second & low,
            (first >> np.uint64(32)) ^ words[3] ^ np.uint64(keys[1]),
            first & low,
        ]
        keys = [(k + w) & 0xFFFFFFFF for k, w in zip(keys, _WEYL, strict=True)]
    return np.stack(words, 1).astype(np.uint32)


def dropped(shape: tuple[int, ...], p: float, seed: int) -> np.ndarray:
    """True where an element is dropped: element i has the 16 bits i % 8 of block i / 8, and as many for a tie."""
    numel = int(np.prod(shape))
    blocks = np.arange((numel + 7) // 8, dtype=np.uint64)

    def lanes(word3: int) -> np.ndarray:
        counters = np.zeros((blocks.size, 4), np.uint32)
        counters[:, 0], counters[:, 1] = blocks & np.uint64(0xFFFFFFFF), blocks >> np.uint64(32)
        counters[:, 3] = word3
        words = philox(counters, seed)
        return np.stack([words & 0xFFFF, words >> 16], 2).reshape(-1)[:numel]

    threshold = int(p * 2**32)
    high, low = threshold >> 16, threshold & 0xFFFF
    first = lanes(0)
    return ((first < high) | ((first == high) & (lanes(1) < low))).reshape(shape)

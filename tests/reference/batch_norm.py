"""Batch normalisation in numpy, float64, from the formulas of docs/batch_norm.md."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Forward(NamedTuple):
    """Holds everything that a training or evaluation step computes."""

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
    """Computes one step; `kept` is what dropout multiplies by, 0 or 1 / (1 - p)."""
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
    """Computes the gradients; `gate` is what ReLU and dropout multiply by."""
    invstd = 1 / np.sqrt(var + eps)
    normalised = (x - _per_channel(mean, x)) * _per_channel(invstd, x)
    dz = dy * gate
    dbias, dweight = dz.sum(_axes(x)), (dz * normalised).sum(_axes(x))
    dx = dz
    if training:
        count = x.size // x.shape[1]
        dx = dz - _per_channel(dbias / count, x) - normalised * _per_channel(dweight / count, x)
    return Gradients(dx * _per_channel(weight * invstd, x), dweight, dbias, dz)

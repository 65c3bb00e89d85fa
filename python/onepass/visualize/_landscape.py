"""The landscape of a model's loss: its values in a plane through the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onepass._arguments import as_flag, check_module, told
from onepass.monitor._snapshot import generators_in
from onepass.monitor.lr_range import _generators_of
from onepass.visualize._arguments import check_count, check_positive, check_seed
from onepass.visualize._directions import Plane, PrincipalPlane, RandomPlane, parameters_of
from onepass.visualize._evaluate import BATCH_NORM, Evaluation
from onepass.visualize._points import Points
from onepass.visualize._progress import bar
from onepass.visualize._refine import STRIDES, Refined, refine
from onepass.visualize._scene import Landscape

__all__ = ["landscape"]

_NAME = "landscape"
Floats = NDArray[np.float64]
# The share of the path's extent that the plane adds at each side.
_MARGIN = 0.25


def landscape(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    loader: Iterable[Any],
    *,
    trajectory: Sequence[Mapping[str, Tensor]] | None = None,
    span: float | None = None,
    resolution: int = 41,
    adaptive: bool = True,
    tolerance: float = 0.005,
    batch_norm: str = "running",
    batches: int | None = None,
    seed: int = 0,
    file: Path | str | None = None,
    generators: Iterable[torch.Generator] = (),
    progress: bool = True,
) -> Landscape:
    r"""Computes the loss in a plane through a model's weights: :math:`L(w + a d_1 + b d_2)`.

    The directions are random, each filter with the norm of the model's filter; biases and batch norms do not move.
    They come from Philox by the parameter's index whenever they are needed, so that none is stored. With a
    trajectory they are its two principal directions, and its weights become points of the picture.

    Dropout and everything else is in evaluation mode. All points see the same batches with the same random
    numbers. Weights, buffers, gradients, modes and random numbers are put back bit for bit, also after an error or
    an interrupt. Memory holds weights and buffers twice.

    The adaptive grid evaluates at most a third of the points: every fourth row and column, and more where an
    interpolation misses by more than the tolerance. It ends with a check of some points that were filled in; the
    result has the errors found.

    Args:
        model: The model; batches go to the device of its first parameter.
        loss_fn: Called as ``loss_fn(model(input), target)``; returns a tensor of one element, the batch's mean.
        loader: Gives pairs (input, target), and is begun again at each point; no iterator.
        trajectory: Weights during training by name, as ``state_dict()`` copies, at least two; None for random
            directions.
        span: How far the plane reaches from the weights along each direction; None for 1 (random), or for what
            shows the whole trajectory.
        resolution: Points along each axis, a multiple of 8 plus 1, at least 17.
        adaptive: Whether the adaptive grid is used; False evaluates every point.
        tolerance: The error of a filled point that is aimed at, as a share of the picture's range.
        batch_norm: "running": batch norm uses the running statistics of the model as it is. "recomputed": they are
            computed again at each point, from another pass over the loader. "batch": each batch's own.
        batches: How many batches are used at each point; None for all.
        seed: Seeds the directions and the check, at least 0 and below 2**64.
        file: A file to which each point is written at once. If it is there, its points are not evaluated again.
        generators: Generators that the model or the loader draws from, besides the global and the loader's own.
        progress: Whether a bar is shown where the standard error is a terminal.

    Returns:
        The values, with methods that draw and write them.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, or the file belongs to other arguments.

    Example:
        >>> import torch
        >>> from onepass.visualize import landscape
        >>> model = torch.nn.Linear(2, 1)
        >>> x = torch.randn(16, 2)
        >>> before = model.weight.clone()
        >>> scene = landscape(model, torch.nn.functional.mse_loss, [(x, x.sum(1, keepdim=True))], resolution=17)
        >>> scene.losses.shape, scene.evaluations <= 17 * 17 / 3, torch.equal(model.weight, before)
        ((17, 17), True, True)

    Source: Li et al. 2018, Visualizing the Loss Landscape of Neural Nets.
    """
    _check(model, loss_fn, loader, batch_norm)
    size = _size(resolution)
    aimed = check_positive(_NAME, "tolerance", tolerance)
    key = check_seed(_NAME, seed)
    few = None if batches is None else check_count(_NAME, "batches", batches, 1)
    is_adaptive = as_flag(_NAME, "adaptive", adaptive)
    named = parameters_of(model)
    plane = RandomPlane(key) if trajectory is None else PrincipalPlane(trajectory, named)
    x, y = _axes(plane, None if span is None else check_positive(_NAME, "span", span), size)
    own = [*generators_in(_NAME, generators), *_generators_of(loader)]
    asked = {
        "weights": _digest(model),
        "directions": plane.to_json(),
        "x": [float(x[0]), float(x[-1])],
        "y": [float(y[0]), float(y[-1])],
        "resolution": size,
        "batch_norm": batch_norm,
        "batches": few,
    }
    points = Points(None if file is None else Path(file), asked)
    evaluation = Evaluation(model, loss_fn, loader, plane, batch_norm=batch_norm, batches=few, generators=own)
    total = size * size // 3 if is_adaptive else size * size
    with bar(_NAME, total, shown=progress) as advance, points, evaluation.running():

        def evaluate(row: int, column: int) -> float:
            if (row, column) not in points.values:
                points.add(row, column, evaluation.at(float(x[column]), float(y[row])))
            advance()
            return points.values[row, column]

        found = refine(size, evaluate, aimed, key) if is_adaptive else _whole(size, evaluate)
    return Landscape(x, y, found, asked, points.read, plane.path if isinstance(plane, PrincipalPlane) else None)


def _whole(size: int, evaluate: Callable[[int, int], float]) -> Refined:
    losses = np.array([[evaluate(row, column) for column in range(size)] for row in range(size)])
    finite = losses[np.isfinite(losses)]
    log = bool(finite.size and finite.min() > 0 and finite.max() > 10 * finite.min())
    return Refined(losses, np.ones_like(losses, dtype=bool), log, 0, 0.0, 0.0)


def _check(model: Any, loss_fn: Any, loader: Any, batch_norm: Any) -> None:
    check_module(_NAME, "model", model)
    if next(model.parameters(), None) is None:
        raise ValueError(f"{_NAME}: model must have a parameter, got none")
    if not callable(loss_fn):
        raise TypeError(f"{_NAME}: loss_fn must be a function, got {told(loss_fn)}")
    if isinstance(loader, Iterator) or not (isinstance(loader, Iterable) or hasattr(type(loader), "__getitem__")):
        raise TypeError(f"{_NAME}: loader must be iterable again and again, got {told(loader)}")
    if batch_norm not in BATCH_NORM:
        raise ValueError(f"{_NAME}: batch_norm must be one of {', '.join(BATCH_NORM)}, got {told(batch_norm)}")


def _size(resolution: Any) -> int:
    size = check_count(_NAME, "resolution", resolution, 2 * STRIDES[0] + 1)
    if size % STRIDES[0] != 1:
        raise ValueError(f"{_NAME}: resolution must be a multiple of {STRIDES[0]} plus 1, got {size}")
    return size


def _axes(plane: Plane, span: float | None, size: int) -> tuple[Floats, Floats]:
    if span is not None or not isinstance(plane, PrincipalPlane):
        axis = np.linspace(-(span or 1.0), span or 1.0, size)
        return axis, axis.copy()
    points = np.concatenate([plane.path, np.zeros((1, 2))])
    low, high = points.min(0), points.max(0)
    margin = _MARGIN * (high - low)
    low, high = low - margin, high + margin
    return np.linspace(low[0], high[0], size), np.linspace(low[1], high[1], size)


def _digest(model: nn.Module) -> str:
    """A digest of weights and buffers: a file of points belongs to them."""
    found = hashlib.sha256()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        found.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

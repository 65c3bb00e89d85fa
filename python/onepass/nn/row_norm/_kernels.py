"""Calls of the kernels of layer and RMS norm on plain contiguous tensors, with the memory that they write."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onepass import _native
from onepass.nn._call.buffers import new_workspace, statistics_dtype
from onepass.nn._call.seeds import Seed

__all__ = ["Options", "Saved", "backward", "forward", "new_gradients", "new_statistic", "options_of", "outputs"]


class Options(NamedTuple):
    """What a call does, tensors aside."""

    centred: bool
    """True for layer norm, False for RMS norm, which has neither mean nor bias."""
    width: int
    """Elements of a row."""
    eps: float
    """Added to the variance, or to the mean of squares."""
    dropout: float
    """Probability of an element of the input to become 0 before the residual is added."""

    @property
    def function(self) -> str:
        """What errors call the operation."""
        return "layer_norm" if self.centred else "rms_norm"


# The same object for the same options: a call on a small tensor would notice that one is made.
options_of = lru_cache(maxsize=256)(Options)


class Saved(NamedTuple):
    """What backward needs besides the weight."""

    normalised: Tensor
    """The rows whose statistics these are: the input, or its sum with the residual."""
    mean: Tensor | None
    """One number a row; None for RMS norm."""
    invstd: Tensor
    """1 / standard deviation, or 1 / root mean square: one number a row."""
    seed: Tensor | None
    """The seed of dropout."""


def new_statistic(input: Tensor, width: int) -> Tensor:
    """Allocates memory for one number each row."""
    return torch.empty(input.numel() // width, dtype=statistics_dtype(input), device=input.device)


def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    seed: Seed,
    options: Options,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None]:
    """Runs the kernel on plain contiguous tensors.

    Returns:
        Output, the sum with the residual (or None), then mean, invstd and seed as in `Saved`.
    """
    core = _native.core
    centred, width, eps, dropout = options
    output = torch.empty_like(input)
    total = None if residual is None else torch.empty_like(input)
    invstd = new_statistic(input, width)
    run: Any = core.rms_norm_forward
    given: dict[str, Any] = {}
    mean = None
    if centred:
        run = core.layer_norm_forward
        mean = torch.empty_like(invstd)
        given = {"bias": bias, "mean": mean}
    drawn = run(
        x=input,
        threads=torch.get_num_threads(),
        width=width,
        y=output,
        residual=residual,
        h=total,
        weight=weight,
        **given,
        invstd=invstd,
        eps=eps,
        dropout=dropout,
        workspace=None if input.is_cpu else _workspace(input, options, columns=False),
        seed=seed,
    )
    return output, total, mean, invstd, drawn


def new_gradients(
    normalised: Tensor, weight: Tensor | None, bias: Tensor | None, dropout: float, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Allocates memory for the gradients of input, weight, bias and residual that are wanted.

    Without dropout the residual's gradient is the input's, which is then made if either is wanted.
    """
    return (
        torch.empty_like(normalised) if wanted[0] or (wanted[3] and not dropout) else None,
        torch.empty_like(weight) if wanted[1] and weight is not None else None,
        torch.empty_like(bias) if wanted[2] and bias is not None else None,
        torch.empty_like(normalised) if wanted[3] and dropout else None,
    )


def backward(
    grad: Tensor,
    grad_of_sum: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Saved,
    options: Options,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Runs the kernel on plain contiguous tensors: the gradients that `new_gradients` allocates."""
    core = _native.core
    centred, width, _, dropout = options
    normalised = saved.normalised
    dx, dweight, dbias, dresidual = new_gradients(normalised, weight, bias, dropout, wanted)
    run: Any = core.layer_norm_backward if centred else core.rms_norm_backward
    columns = dweight is not None or dbias is not None
    run(
        x=normalised,
        threads=torch.get_num_threads(),
        width=width,
        dy=grad,
        dh=grad_of_sum,
        dx=dx,
        dresidual=dresidual,
        weight=weight,
        dweight=dweight,
        **({"dbias": dbias, "mean": saved.mean} if centred else {}),
        invstd=saved.invstd,
        dropout=dropout,
        workspace=None if normalised.is_cpu else _workspace(normalised, options, columns),
        seed=0 if saved.seed is None else saved.seed,
    )
    return dx, dweight, dbias, dresidual


def outputs(found: Sequence[Tensor | None]) -> Tensor | tuple[Tensor, Tensor]:
    """Returns what the caller gets: the output, with a residual the sum, too."""
    output, total = found[0], found[1]
    assert output is not None
    return output if total is None else (output, total)


def _workspace(input: Tensor, options: Options, columns: bool) -> Tensor:
    size = _native.core.row_norm_workspace(x=input, threads=1, width=options.width, columns=columns)
    return new_workspace(input, size)

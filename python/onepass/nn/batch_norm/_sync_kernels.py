"""Calls of the kernels of a batch norm over several ranks: this rank's part, the exchange, the elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from onepass import _native
from onepass.nn._call.buffers import new_workspace, statistics_dtype
from onepass.nn._call.seeds import Seed
from onepass.nn.batch_norm._exchange import Peers, gather, new_own
from onepass.nn.batch_norm._kernels import (
    Options,
    Running,
    count_writes,
    new_gradients,
    new_mask,
    new_statistic,
)

__all__ = ["Saved", "backward", "forward"]


class Saved(NamedTuple):
    """What backward needs besides input, weight and bias."""

    mean: Tensor
    """Of shape (C), over all ranks."""
    invstd: Tensor
    """Of shape (C): 1 / standard deviation."""
    mask: Tensor | None
    """The bits of ReLU behind a residual."""
    seed: Tensor | None
    """The seed of dropout."""
    total: Tensor
    """Of shape (1), float64: the elements of a channel on all ranks."""


def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    seed: Seed,
    options: Options,
    peers: Peers,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Runs the kernels on plain dense tensors, whose batch may be empty; moves the running statistics in place.

    Returns:
        Output, and the fields of `Saved`.
    """
    core, threads, channels = _native.core, torch.get_num_threads(), input.shape[1]
    empty = input.numel() == 0
    own = new_own(input, empty)
    if not empty:
        core.batch_norm_moments(x=input, threads=threads, own=own, tag=peers.tag, workspace=_workspace(input))
    gathered = gather(own, peers, channels)
    mean = new_statistic(input)
    invstd, total = torch.empty_like(mean), own.new_empty(1)
    core.batch_norm_merge_moments(
        x=gathered,
        threads=threads,
        mean=mean,
        invstd=invstd,
        total=total,
        running_mean=running.mean,
        running_var=running.var,
        momentum=options.momentum,
        batches=running.batches,
        eps=options.eps,
        tag=peers.tag,
        layer=peers.layer,
        rank=torch.distributed.get_rank(peers.group),
    )
    if running.mean is not None and running.var is not None:
        count_writes(running.mean, running.var)
    output = torch.empty_like(input)
    mask = None if residual is None else new_mask(input, options.activation)
    drawn = None
    if not empty:
        drawn = core.batch_norm_apply(
            x=input,
            threads=threads,
            y=output,
            residual=residual,
            weight=weight,
            bias=bias,
            mean=mean,
            invstd=invstd,
            activation=options.activation,
            dropout=options.dropout,
            mask=mask,
            seed=seed,
        )
    return output, mean, invstd, mask, drawn, total


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Saved,
    options: Options,
    wanted: Sequence[bool],
    peers: Peers,
) -> tuple[Tensor | None, ...]:
    """Runs the kernels: the gradients of input, weight, bias and residual that are wanted.

    Those of weight and bias are of this rank's batch: DistributedDataParallel puts them together.
    """
    core, threads, channels = _native.core, torch.get_num_threads(), input.shape[1]
    empty = input.numel() == 0
    dx, dweight, dbias, dresidual = new_gradients(input, weight, bias, wanted)
    own = new_own(input, empty)
    common = {
        "x": input,
        "threads": threads,
        "dy": grad,
        "weight": weight,
        "bias": bias,
        "mean": saved.mean,
        "invstd": saved.invstd,
        "activation": options.activation,
        "dropout": options.dropout,
        "mask": saved.mask,
        "workspace": None if empty else _workspace(input),
        "seed": 0 if saved.seed is None else saved.seed,
    }
    if empty:
        for vector in (dweight, dbias):
            if vector is not None:
                vector.zero_()
    elif any(wanted[:3]):
        core.batch_norm_backward_sums(dweight=dweight, dbias=dbias, own=own, **common)
    terms = torch.zeros(2 * channels, dtype=statistics_dtype(input), device=input.device)
    if wanted[0]:
        gathered = gather(own, peers, channels)
        core.batch_norm_merge_gradients(
            x=gathered, threads=threads, invstd=saved.invstd, total=saved.total, terms=terms
        )
    if not empty and (dx is not None or dresidual is not None):
        core.batch_norm_backward_elements(dx=dx, dresidual=dresidual, terms=terms, **common)
    return dx, dweight, dbias, dresidual


def _workspace(input: Tensor) -> Tensor | None:
    return None if input.is_cpu else new_workspace(input, _native.core.batch_norm_workspace(x=input))

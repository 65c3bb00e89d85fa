"""Batch normalisation over several ranks: checks, which way a call goes, and its derivative.

The ways are those of _call.py: eager calls run the core from a torch.autograd.Function, everything else the
operators of _sync_ops.py. In both the exchange happens inside, so a compiled graph has no break.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from onepass._memory import check_large
from onepass.nn._call import seeds
from onepass.nn._call.checks import check_dense
from onepass.nn._call.dispatch import is_plain, is_transformed
from onepass.nn._call.layout import dense, in_layout_of
from onepass.nn.batch_norm import _composed, _sync_kernels, _sync_ops
from onepass.nn.batch_norm._checks import check, check_channels, check_vectors
from onepass.nn.batch_norm._exchange import Peers
from onepass.nn.batch_norm._kernels import Options, Running, checked_options
from onepass.nn.batch_norm._sync_kernels import Saved
from onepass.nn.batch_norm._sync_ops import differentiate

__all__ = ["refuse_transforms", "synchronised"]


def refuse_transforms(peers: Peers) -> None:
    """Raises under torch.func: before the batch is counted, which torch.func would refuse with other words."""
    if not torch.compiler.is_compiling() and is_transformed():
        raise RuntimeError(
            f"{peers.layer}: several ranks must not train under torch.func or forward-mode differentiation; "
            "the exchange has no derivative there"
        )


def synchronised(
    peers: Peers,
    input: Tensor,
    running: Running,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    activation: str | None,
    dropout: float,
) -> Tensor:
    """Does in training what `normalise` does, with the statistics of all ranks' batches."""
    mean, var = running.mean, running.var
    check(input, mean, var, weight, bias, residual, training, eps, activation, dropout, alone=False)
    # Before anything is sent: another rank would wait for a rank that refuses later.
    check_channels(input, mean, var, weight, bias)
    check_vectors(input, residual, running_mean=mean, running_var=var, weight=weight, bias=bias)
    options = checked_options(training, momentum, eps, activation, dropout)
    if input.shape[1] == 0:
        return _composed.empty(input, weight, bias, residual, activation)
    compiling = torch.compiler.is_compiling()
    check_dense("batch_norm", input=input, residual=residual, weight=weight, bias=bias)
    input = dense(input, "batch_norm: input")
    if residual is not None:
        residual = in_layout_of(residual, input, "batch_norm: residual")
    if compiling or not is_plain(input, weight, bias, residual):
        drawn = seeds.seed_for("batch_norm", input) if dropout else None
        return _sync_ops.sync_batch_norm(input, weight, bias, residual, running, drawn, options, peers)
    check_large("batch_norm", input=input, residual=residual)
    source: seeds.Seed = seeds.later("batch_norm", input, None) if dropout else 0
    return cast(
        Tensor,
        _SyncBatchNormFunction.apply(input, weight, bias, residual, running, source, options, peers),  # type: ignore[no-untyped-call]
    )


class _SyncBatchNormFunction(torch.autograd.Function):
    """Eager calls on plain tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running: Running,
        seed: seeds.Seed,
        options: Options,
        peers: Peers,
    ) -> Tensor:
        """Runs the kernels and the exchange."""
        output, *saved = _sync_kernels.forward(input, weight, bias, residual, running, seed, options, peers)
        ctx.save_for_backward(input, weight, bias, *saved)
        ctx.options, ctx.peers = options, peers
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Returns the gradients of all arguments."""

        def run(
            grad: Tensor,
            input: Tensor,
            weight: Tensor | None,
            bias: Tensor | None,
            saved: Saved,
            wanted: list[bool],
        ) -> Sequence[Tensor | None]:
            return _sync_kernels.backward(grad, input, weight, bias, saved, ctx.options, wanted, ctx.peers)

        return (*differentiate(ctx, grad, run), None, None, None, None)

"""The cross-entropy loss: which way a call goes, and what it brings along."""

from __future__ import annotations

import torch
from torch import Tensor

from onepass._arguments import told
from onepass._memory import LARGE, check_large
from onepass.nn._call import exporting
from onepass.nn._call.buffers import statistics_dtype
from onepass.nn._call.dispatch import is_plain, is_transformed
from onepass.nn._call.layout import dense, in_layout_of
from onepass.nn._call.shards import is_sharded
from onepass.nn.cross_entropy import _composed, _exported, _kernels, _ops
from onepass.nn.cross_entropy._checks import check_inplace, check_shared, dtype_read, rows_shape
from onepass.nn.cross_entropy._derivative import apply
from onepass.nn.cross_entropy._kernels import FIRST_ALONE, Options, Second, options_of
from onepass.nn.cross_entropy._sharded import sharded
from onepass.nn.cross_entropy._statistics import LossStatistics, no_totals, statistics_of

__all__ = ["cross_entropy"]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    is_dense: bool,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    target2: Tensor | None,
    lam: float | Tensor | None,
    z_loss: float,
    inplace_backward: bool,
    return_stats: bool,
) -> Tensor | tuple[Tensor, LossStatistics]:
    """Returns the loss for checked arguments; is_dense: the target holds probabilities."""
    compiling = torch.compiler.is_compiling()
    # torch.compile does not know caches.
    options = (Options if compiling else options_of)(ignore_index, label_smoothing, z_loss, reduction)
    if is_sharded(input):
        return _of_shards(input, target, is_dense, weight, options, target2, inplace_backward, return_stats)
    shape = target.shape if not is_dense else rows_shape(input)
    target = _widened(target, input) if is_dense else _labels(target)
    weight = None if weight is None else _widened(weight, input)
    second = FIRST_ALONE if target2 is None else _second(input, target2, lam)
    transformed = not compiling and is_transformed()
    plain = not compiling and not transformed and is_plain(input, weight, target, second.target)
    if second.lams is not None and plain:
        plain = is_plain(second.lams)
        if second.lams.is_cpu and not ((second.lams >= 0) & (second.lams <= 1)).all():
            raise ValueError(f"cross_entropy: lam must be 0 to 1, got {told(second.lams.tolist())}")
    if inplace_backward:
        check_inplace(input, plain)
    if transformed and return_stats:
        raise RuntimeError("cross_entropy: return_stats must be False under torch.func, got True")
    size = input.numel()
    if size == 0 and rows_shape(input).numel():
        raise ValueError(f"cross_entropy: input must have a class, got shape {tuple(input.shape)}")
    if size == 0 or transformed:
        loss = _composed.forward(input, target, second, weight, options)
        loss = loss.view(shape) if reduction == "none" else loss
        return (loss, statistics_of(no_totals(input))) if return_stats else loss
    input = dense(input, "cross_entropy: input")
    target = in_layout_of(target, input, "cross_entropy: target") if is_dense else target
    weight = None if weight is None else weight.contiguous()
    if plain and size >= LARGE:  # in this order: a compiler must not see the size
        check_large("cross_entropy", input=input, target=target)
    if not plain:
        if exporting.is_asked():
            loss = _exported.exported_cross_entropy(input, target, second, weight, options, return_stats)
            return loss.view(shape) if reduction == "none" and loss.dim() != len(shape) else loss
        loss, totals = _ops.cross_entropy(input, target, second, weight, options, return_stats)
    elif torch.is_grad_enabled() and (input.requires_grad or target.requires_grad):
        if inplace_backward:
            check_shared(input, target=target, target2=second.target, lam=second.lams, weight=weight)
        loss, totals = apply(input, target, second, weight, options, return_stats, inplace_backward)
    else:
        loss, _, totals = _kernels.forward(input, target, second, weight, options, return_stats)
    if reduction == "none" and loss.shape != shape:
        # Only then: a view does not take a sparse gradient.
        loss = loss.view(shape)
    return (loss, statistics_of(totals)) if return_stats else loss


def _of_shards(
    input: Tensor,
    target: Tensor,
    is_dense: bool,
    weight: Tensor | None,
    options: Options,
    target2: Tensor | None,
    inplace_backward: bool,
    return_stats: bool,
) -> Tensor:
    others = {"target2": target2, "inplace_backward": inplace_backward, "return_stats": return_stats}
    return sharded(input, target, is_dense, weight, options, others)


def _second(input: Tensor, target2: Tensor, lam: float | Tensor | None) -> Second:
    if isinstance(lam, Tensor):
        return Second(_labels(target2), lam.to(statistics_dtype(input)).contiguous(), 1.0)
    return Second(_labels(target2), None, 1.0 if lam is None else float(lam))


def _widened(values: Tensor, input: Tensor) -> Tensor:
    dtype = dtype_read(values.dtype, input)
    return values if dtype == values.dtype else values.to(dtype)


def _labels(values: Tensor) -> Tensor:
    # Without `to` where it does nothing: an exported graph would show it.
    return (values if values.dtype == torch.int64 else values.to(torch.int64)).contiguous()

"""The cross-entropy loss on the kernels: what the function and the module have in common."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from onepass import _native
from onepass.nn._call import exporting
from onepass.nn._call.buffers import statistics_dtype
from onepass.nn._call.checks import check_dense, check_integer, check_number, check_optional, check_tensor
from onepass.nn._call.dispatch import is_plain, is_transformed
from onepass.nn._call.layout import dense, in_layout_of
from onepass.nn.cross_entropy import _composed, _exported, _kernels, _ops
from onepass.nn.cross_entropy._derivative import CrossEntropyFunction

__all__ = ["LossStatistics", "cross_entropy"]

_LABELS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class LossStatistics(NamedTuple):
    """What the loss has seen of the predictions: float64 tensors on its device, for which nobody has waited.

    All are over the rows that count, those that are not ignored; the confidence of a row is its largest
    probability, and a bin holds the rows whose confidence lies in one of 15 equal parts of 0 to 1.
    """

    rows: Tensor
    """How many rows count."""
    accuracy: Tensor
    """Mean probability that the target gives the class with the largest logit (the first of equals): 0 or 1 for a
    label, lam or 1 - lam for one of two, y for probabilities. Smoothing has no say."""
    entropy: Tensor
    """Mean entropy of the predictions, in nats."""
    largest_logit: Tensor
    """The largest logit; -inf without rows."""
    bin_rows: Tensor
    """Rows of each bin, of shape (15,)."""
    bin_accuracy: Tensor
    """Mean accuracy of each bin's rows; nan in an empty one."""
    bin_confidence: Tensor
    """Mean confidence of each bin's rows; nan in an empty one."""

    def expected_calibration_error(self) -> Tensor:
        """The mean over the rows of their bin's distance between accuracy and confidence; nan without rows.

        Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
        """
        gaps = (self.bin_accuracy - self.bin_confidence).abs() * self.bin_rows
        return gaps.nan_to_num(nan=0.0).sum() / self.bin_rows.sum()


def cross_entropy(
    input: Tensor,
    target: Tensor,
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
    """`functional.cross_entropy` behind the handling of torch's own arguments."""
    is_dense = _check(input, target, weight, ignore_index, reduction, label_smoothing, z_loss)
    _check_second(input, is_dense, target2, lam)
    shape = target.shape if not is_dense else _rows_shape(input)
    target = _widened(target, input) if is_dense else _labels(target)
    weight = None if weight is None else _widened(weight, input)
    second = None if target2 is None else _labels(target2)
    lams = None
    if isinstance(lam, Tensor):
        lams = lam.to(statistics_dtype(input)).contiguous()
    number = 1.0 if lam is None or lams is not None else float(lam)
    options = (weight, ignore_index, label_smoothing, z_loss, reduction)
    compiling = torch.compiler.is_compiling()
    transformed = not compiling and is_transformed()
    plain = not compiling and not transformed and is_plain(input, weight) and is_plain(target, second)
    if lams is not None and plain:
        plain = is_plain(lams)
        if lams.is_cpu and not ((lams >= 0) & (lams <= 1)).all():
            raise ValueError(f"cross_entropy: lam must be 0 to 1, got {lams.tolist()}")
    if inplace_backward:
        _check_inplace(input, plain)
    if transformed and return_stats:
        raise RuntimeError("cross_entropy: return_stats must be False under torch.func, got True")
    if input.numel() == 0 or transformed:
        loss = _composed.forward(input, target, second, lams, number, *options)
        loss = loss.view(shape) if reduction == "none" else loss
        return (loss, _statistics(_no_totals(input))) if return_stats else loss
    input = dense(input)
    target = in_layout_of(target, input) if is_dense else target
    weight = None if weight is None else weight.contiguous()
    rest = (second, lams, number, weight, *options[1:], return_stats)
    if not plain:
        if exporting.is_asked():
            loss = _exported.exported_cross_entropy(input, target, *rest)
            return loss.view(shape) if reduction == "none" and loss.dim() != len(shape) else loss
        loss, totals = _ops.cross_entropy(input, target, *rest)
    elif torch.is_grad_enabled() and (input.requires_grad or target.requires_grad):
        if inplace_backward:
            _check_memory(input, target=target, target2=second, lam=lams, weight=weight)
        # torch gives `apply` no types.
        loss, totals = CrossEntropyFunction.apply(input, target, rest, inplace_backward)  # type: ignore[no-untyped-call]
    else:
        loss, _, totals = _kernels.forward(input, target, *rest)
    if reduction == "none" and loss.shape != shape:
        # Only then: a view does not take a sparse gradient.
        loss = loss.view(shape)
    return (loss, _statistics(totals)) if return_stats else loss


def _read_as(dtype: torch.dtype, input: Tensor) -> torch.dtype | None:
    """As what weights or probabilities of this dtype are read beside the input; None if they are too wide."""
    wide = statistics_dtype(input)
    if dtype in (input.dtype, wide):
        return dtype
    return wide if dtype in _FLOATS and dtype.itemsize < wide.itemsize else None


def _widened(values: Tensor, input: Tensor) -> Tensor:
    dtype = _read_as(values.dtype, input)
    return values if dtype == values.dtype else values.to(dtype)


def _labels(values: Tensor) -> Tensor:
    # Without `to` where it does nothing: an exported graph would show it.
    return (values if values.dtype == torch.int64 else values.to(torch.int64)).contiguous()


def _rows_shape(input: Tensor) -> torch.Size:
    return torch.Size(()) if input.dim() == 1 else input.shape[:1] + input.shape[2:]


def _no_totals(input: Tensor) -> Tensor:
    totals = torch.zeros(_native.core.cross_entropy_totals, dtype=torch.float64, device=input.device)
    totals[6] = -math.inf
    return totals


def _statistics(totals: Tensor) -> LossStatistics:
    """The kernels' totals (csrc/kernels/cross_entropy.h) by name."""
    rows = totals[3]
    bin_rows, correct, confidence = totals[7:].view(3, -1)
    return LossStatistics(
        rows, totals[4] / rows, totals[5] / rows, totals[6], bin_rows, correct / bin_rows, confidence / bin_rows
    )


def _check(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
) -> bool:
    """Raises for what is wrong; True if the target holds probabilities."""
    check_tensor("cross_entropy", "input", input)
    check_tensor("cross_entropy", "target", target)
    check_optional("cross_entropy", weight=weight)
    check_dense("cross_entropy", input=input, target=target, weight=weight)
    check_integer("cross_entropy", "ignore_index", ignore_index)
    if isinstance(ignore_index, int) and not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"cross_entropy: ignore_index must be an int64, got {ignore_index}")
    check_number("cross_entropy", "label_smoothing", label_smoothing)
    check_number("cross_entropy", "z_loss", z_loss)
    if input.dtype not in _FLOATS:
        raise TypeError(
            f"cross_entropy: input must be torch.float32, torch.float64, torch.bfloat16 or torch.float16, "
            f"got {input.dtype}"
        )
    if input.dim() == 0:
        raise ValueError("cross_entropy: input must be (C,), (N, C) or (N, C, d1, ...), got a scalar")
    if target.device != input.device:
        raise ValueError(f"cross_entropy: target must be on {input.device} like input, got {target.device}")
    classes = input.shape[min(1, input.dim() - 1)]
    is_dense = target.shape == input.shape
    if is_dense:
        _check_read("target of probabilities", target, input)
        if ignore_index >= 0:
            raise ValueError(
                f"cross_entropy: ignore_index must be negative with probabilities, got {ignore_index}"
            )
    else:
        _check_labels("target", input, target)
    if weight is not None:
        if weight.shape != (classes,):
            raise ValueError(f"cross_entropy: weight must have shape ({classes},), got {tuple(weight.shape)}")
        _check_read("weight", weight, input)
        if weight.requires_grad:
            raise ValueError("cross_entropy: weight must not require a gradient, got one that does")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"cross_entropy: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be 0 to 1, got {label_smoothing}")
    if not 0 <= z_loss < math.inf:
        raise ValueError(f"cross_entropy: z_loss must be finite and at least 0, got {z_loss}")
    return is_dense


def _check_read(name: str, values: Tensor, input: Tensor) -> None:
    if _read_as(values.dtype, input) is None:
        raise TypeError(
            f"cross_entropy: {name} must be {statistics_dtype(input)} or a narrower floating dtype beside an "
            f"input of {input.dtype}, got {values.dtype}"
        )


def _check_labels(name: str, input: Tensor, target: Tensor) -> None:
    wanted = _rows_shape(input)
    # torch takes one label in a vector, too, beside logits without a batch.
    if target.shape != wanted and not (input.dim() == 1 and target.shape == (1,)):
        raise ValueError(
            f"cross_entropy: {name} must have shape {tuple(wanted)} beside an input of shape "
            f"{tuple(input.shape)}, got {tuple(target.shape)}"
        )
    if target.dtype not in _LABELS:
        raise TypeError(
            f"cross_entropy: {name} of class indices must be torch.int64 or torch.uint8, or another "
            f"integer dtype, got {target.dtype}"
        )


def _check_second(input: Tensor, is_dense: bool, target2: Tensor | None, lam: float | Tensor | None) -> None:
    check_optional("cross_entropy", target2=target2)
    if (target2 is None) != (lam is None):
        missing = "target2" if target2 is None else "lam"
        raise ValueError(f"cross_entropy: target2 and lam must be given together, got no {missing}")
    if target2 is None or lam is None:
        return
    if is_dense:
        raise ValueError("cross_entropy: target2 must be None with a target of probabilities, got a tensor")
    check_dense("cross_entropy", target2=target2)
    _check_labels("target2", input, target2)
    if target2.device != input.device:
        raise ValueError(f"cross_entropy: target2 must be on {input.device} like input, got {target2.device}")
    if not isinstance(lam, Tensor):
        check_number("cross_entropy", "lam", lam)
        if not 0 <= lam <= 1:
            raise ValueError(f"cross_entropy: lam must be 0 to 1, got {lam}")
        return
    check_dense("cross_entropy", lam=lam)
    samples = (input.shape[0],) if input.dim() > 1 else (1,)
    if lam.shape != samples or lam.device != input.device:
        raise ValueError(
            f"cross_entropy: lam must be a number or of shape {samples} on {input.device}, got {tuple(lam.shape)} "
            f"on {lam.device}"
        )
    if not lam.is_floating_point() or lam.requires_grad:
        raise TypeError(
            f"cross_entropy: lam must be of a floating dtype and require no gradient, got {lam.dtype}"
            + (" that requires one" if lam.requires_grad else "")
        )


def _check_inplace(input: Tensor, plain: bool) -> None:
    if not plain:
        raise RuntimeError(
            "cross_entropy: inplace_backward must be False under torch.compile, torch.export, torch.func, "
            "torch.jit.trace, dispatch modes and with tensor subclasses or a negative bit, got True"
        )
    base = input if input._base is None else input._base
    if input.requires_grad and base.is_leaf and base.requires_grad:
        kind = "a leaf" if base is input else "a view of a leaf"
        raise ValueError(f"cross_entropy: inplace_backward must be False if input is {kind}, got True")


def _check_memory(input: Tensor, **others: Tensor | None) -> None:
    """Raises if what backward reads lies where it is to write."""
    memory = input.untyped_storage().data_ptr()
    for name, other in others.items():
        if other is not None and other.untyped_storage().data_ptr() == memory:
            raise ValueError(
                f"cross_entropy: inplace_backward must be False if {name} shares memory with input, got True"
            )


def legacy_reduction(size_average: Any, reduce: Any, reduction: str) -> str:
    """Torch's reading of its two deprecated arguments, with its warning."""
    if size_average is None and reduce is None:
        return reduction
    from torch.nn import _reduction

    return _reduction.legacy_get_string(size_average, reduce)

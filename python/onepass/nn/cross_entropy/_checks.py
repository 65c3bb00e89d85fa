"""What the loss refuses before it computes anything."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from onepass._arguments import told
from onepass.nn._call.buffers import statistics_dtype
from onepass.nn._call.checks import check_dense, check_integer, check_number, check_optional, check_tensor

__all__ = ["check", "check_inplace", "check_second", "check_shared", "dtype_read", "rows_shape"]

_LABELS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def dtype_read(dtype: torch.dtype, input: Tensor) -> torch.dtype | None:
    """Returns the dtype in which weights or probabilities of `dtype` are read; None if it is too wide."""
    wide = statistics_dtype(input)
    if dtype in (input.dtype, wide):
        return dtype
    return wide if dtype in _FLOATS and dtype.itemsize < wide.itemsize else None


def rows_shape(input: Tensor) -> torch.Size:
    """Returns the shape of the labels."""
    return torch.Size(()) if input.dim() == 1 else input.shape[:1] + input.shape[2:]


def check(
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
        raise ValueError(f"cross_entropy: reduction must be 'none', 'mean' or 'sum', got {told(reduction)}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be 0 to 1, got {label_smoothing}")
    if not 0 <= z_loss < math.inf:
        raise ValueError(f"cross_entropy: z_loss must be finite and at least 0, got {z_loss}")
    return is_dense


def _check_read(name: str, values: Tensor, input: Tensor) -> None:
    if dtype_read(values.dtype, input) is None:
        raise TypeError(
            f"cross_entropy: {name} must be {statistics_dtype(input)} or a narrower floating dtype next to an "
            f"input of {input.dtype}, got {values.dtype}"
        )


def _check_labels(name: str, input: Tensor, target: Tensor) -> None:
    wanted = rows_shape(input)
    # torch also takes a vector of one label with logits that have no batch.
    if target.shape != wanted and not (input.dim() == 1 and target.shape == (1,)):
        raise ValueError(
            f"cross_entropy: {name} must have shape {tuple(wanted)} for an input of shape "
            f"{tuple(input.shape)}, got {tuple(target.shape)}"
        )
    if target.dtype not in _LABELS:
        raise TypeError(
            f"cross_entropy: {name} of class indices must be torch.int64 or torch.uint8, or another "
            f"integer dtype, got {target.dtype}"
        )


def check_second(input: Tensor, is_dense: bool, target2: Tensor | None, lam: float | Tensor | None) -> None:
    """Raises for second labels that are wrong."""
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


def check_inplace(input: Tensor, plain: bool) -> None:
    """Raises where the gradient cannot take the place of the logits."""
    if not plain:
        raise RuntimeError(
            "cross_entropy: inplace_backward must be False under torch.compile, torch.export, torch.func, "
            "torch.jit.trace, dispatch modes and with tensor subclasses or a negative bit, got True"
        )
    base = input if input._base is None else input._base
    if input.requires_grad and base.is_leaf and base.requires_grad:
        kind = "a leaf" if base is input else "a view of a leaf"
        raise ValueError(f"cross_entropy: inplace_backward must be False if input is {kind}, got True")


def check_shared(input: Tensor, **others: Tensor | None) -> None:
    """Raises if backward would read memory that it has to write."""
    memory = input.untyped_storage().data_ptr()
    for name, other in others.items():
        if other is not None and other.untyped_storage().data_ptr() == memory:
            raise ValueError(
                f"cross_entropy: inplace_backward must be False if {name} shares memory with input, got True"
            )

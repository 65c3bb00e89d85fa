"""The function of the cross-entropy loss, which `onepass.nn.functional` offers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from onepass.nn.cross_entropy import _call
from onepass.nn.cross_entropy._checks import check, check_second
from onepass.nn.cross_entropy._statistics import LossStatistics

__all__ = ["cross_entropy"]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    target2: Tensor | None = None,
    lam: float | Tensor | None = None,
    z_loss: float = 0.0,
    inplace_backward: bool = False,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, LossStatistics]:
    r"""Computes the cross-entropy of logits and targets; reads the logits once, and once more for the gradient.

    .. math::
        l = \sum_c q_c (\operatorname{lse}(x) - x_c) + z\,w \operatorname{lse}(x)^2, \qquad
        q_c = (1 - \epsilon) \sum_k \lambda_k w_{t_k} [c = t_k] + \frac{\epsilon}{C} w_c

    with :math:`\lambda = 1` for one label, and :math:`q_c = w_c ((1 - \epsilon) y_c + \epsilon / C)` for
    probabilities y. The mean divides by the sum of the row weights :math:`w = \sum_k \lambda_k w_{t_k}` of rows
    that are not ignored (with probabilities: by the number of rows). For the backward pass the logits are kept,
    and two numbers a row.

    Args:
        input: Logits x, of shape (C), (N, C) or (N, C, d1, ...): float32, float64, bfloat16 or float16. Contiguous
            tensors and those with the classes last in memory (channels_last, a transposed (N, L, C)) are taken as
            they are, others are copied.
        target: Labels of any integer dtype and of the input's shape without C, or probabilities of the input's
            shape: of its dtype, or of another one that the loss's holds (narrower ones are widened).
        weight: Of shape (C), of dtypes as probabilities.
        size_average: Deprecated, as in torch.
        ignore_index: The label that does not count; with probabilities it must be negative and does nothing.
        reduce: Deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: :math:`\epsilon`, 0 to 1.
        target2: Second labels, for mixup and cutmix, of the target's shape; together with lam.
        lam: Weight of the first label, 0 to 1, a number or a tensor of shape (N,) (a GPU does not check
            its values); the second has 1 - lam.
        z_loss: z, at least 0: keeps the log-sum-exp near 0. Weighted like the row.
        inplace_backward: Writes the gradient over the logits, which nobody may need afterwards: their version
            counter counts, so that autograd complains where somebody does. Not for a leaf or a view of one, nor
            where another argument shares memory with the logits.
        return_stats: Also returns accuracy, entropy, calibration and the largest logit, without a further pass.

    Returns:
        The loss, float32 (float64 for float64), of shape () or, without reduction, of the target's labels. With
        return_stats the loss and a `LossStatistics`.

    Raises:
        ValueError: A shape, label_smoothing, lam, z_loss, reduction or ignore_index is wrong; weight requires a
            gradient; inplace_backward with a leaf or shared memory; target2 without lam, or with probabilities.
        TypeError: A dtype is not supported, or a tensor is sparse or nested.
        IndexError: A label is none of the classes (on the CPU; a GPU stops the kernel, as torch's does).
        RuntimeError: inplace_backward or return_stats where only torch's own operations or compilers work.

    Differs from torch: the loss of half precision logits is float32, as under autocast, and reads them without a
    copy. A row that is ignored has the gradient 0 whatever its logits are (torch: nan if they are). Integer dtypes
    that torch refuses (int32) are taken. Narrow probabilities are widened before they are smoothed. Wrong shapes
    and options raise ValueError. Under torch.func and forward-mode differentiation it is composed of torch's own
    functions, as are derivatives of higher order.

    Source: torch.nn.functional.cross_entropy; Szegedy et al. 2016 (label smoothing); Zhang et al. 2018 (mixup);
    Chowdhery et al. 2022 (z-loss).

    Example:
        >>> import torch
        >>> from onepass.nn.functional import cross_entropy
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> loss, seen = cross_entropy(logits, torch.tensor([0, 1]), label_smoothing=0.1, return_stats=True)
        >>> round(loss.item(), 4), seen.accuracy.item()
        (0.2269, 1.0)
    """
    tensors = (input, target, weight, target2)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            cross_entropy,
            tensors,
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
            target2=target2,
            lam=lam,
            z_loss=z_loss,
            inplace_backward=inplace_backward,
            return_stats=return_stats,
        )
    reduction = _legacy_reduction(size_average, reduce, reduction)
    is_dense = check(input, target, weight, ignore_index, reduction, label_smoothing, z_loss)
    check_second(input, is_dense, target2, lam)
    return _call.cross_entropy(
        input,
        target,
        is_dense,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        target2,
        lam,
        z_loss,
        inplace_backward,
        return_stats,
    )


def _legacy_reduction(size_average: Any, reduce: Any, reduction: str) -> str:
    """Torch's reading of its two deprecated arguments, with its warning."""
    if size_average is None and reduce is None:
        return reduction
    from torch.nn import _reduction

    return _reduction.legacy_get_string(size_average, reduce)

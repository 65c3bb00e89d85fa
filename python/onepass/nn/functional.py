"""torch.nn.functional's functions, each in as few passes over memory as it needs."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from onepass.nn import _batch_norm, _cross_entropy
from onepass.nn._cross_entropy import LossStatistics
from onepass.nn._dropout_functional import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from onepass.nn._kinds import check_number
from onepass.nn._recomputation import is_recomputed, throwaway

__all__ = [
    "alpha_dropout",
    "batch_norm",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> Tensor:
    r"""Normalises each channel over the batch; adds, applies ReLU and drops elements in the same pass.

    .. math::
        y = \operatorname{dropout}\left(\operatorname{act}\left(
            \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \cdot w + b + r\right)\right)

    In training E and Var (biased) are the batch's, and the running statistics move towards it:
    ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance. Else they are
    the running statistics, and nothing is dropped. For the backward pass x is kept, with `residual` and
    ReLU together one bit per element more, and nothing else of the input's size.

    Args:
        input: x, of shape (N, C) or (N, C, ...): float32, float64, bfloat16 or float16. Contiguous,
            channels_last and channels_last_3d are taken as they are; y has the same layout.
        running_mean: Of shape (C), changed in place by training; may be None there.
        running_var: As running_mean; both or none of the two.
        weight: w, of shape (C), or None for 1. All of shape (C) are float32 with a half precision input, or
            of its dtype; with float32 and float64 of the input's dtype.
        bias: b, as weight, or None for 0.
        training: Whether to use the batch's statistics, and to drop.
        momentum: How far the running statistics move towards the batch's. torch's name: it is 1 minus what
            other libraries call so.
        eps: Added to the variance; positive in training.
        activation: None or ``"relu"``.
        residual: r, of x's shape and dtype, added before the activation.
        dropout: Probability, 0 to 1, that an element becomes 0 in training; the others are divided by
            1 - dropout. Which ones depends on seed and index in (N, C, ...) alone: not on layout,
            threads or device.
        generator: Draws the seed instead of torch's default generator of the device.
        seed: The seed itself: 0 to 2**64 - 1, or an int64 tensor of one element on x's device.

    Returns:
        y, of x's shape, dtype and layout.

    Raises:
        ValueError: Training with one value per channel; eps is not positive in training, or negative; one of
            the running statistics without the other, or none of them when not training; dropout is not
            in [0, 1]; activation is unknown; seed and generator are both given, or one of them without dropout;
            a shape is wrong.
        TypeError: A dtype is not supported, or a tensor is sparse or nested.

    Differs from torch: statistics are as accurate with channels_last as without (torch sums them in float32
    there: a thousand times the error), and have the same bits for any number of threads. The running
    statistics' version counters count, and the recomputation of activation checkpointing does not move them. x
    that is channels last beyond 4-D and 5-D, such as a transposed (N, L, C), gives y of the same layout. A
    wrong size of a vector raises ValueError, and a rejected call has changed nothing. Under torch.func and
    forward-mode differentiation it is composed of torch's own functions.

    Source: Ioffe and Szegedy 2015; torch.nn.functional.batch_norm; Srivastava et al. 2014.
    """
    tensors = (input, running_mean, running_var, weight, bias, residual)
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            batch_norm,
            tensors,
            input,
            running_mean,
            running_var,
            weight=weight,
            bias=bias,
            training=training,
            momentum=momentum,
            eps=eps,
            activation=activation,
            residual=residual,
            dropout=dropout,
            generator=generator,
            seed=seed,
        )
    if not isinstance(momentum, Real):
        raise TypeError(f"batch_norm: momentum must be a number, got {momentum!r}")
    check_number("batch_norm", "dropout", dropout)
    if dropout == 0 and (generator is not None or seed is not None):
        given = "seed" if generator is None else "generator"
        raise ValueError(f"batch_norm: {given} must be None with dropout=0, got one")
    if training and running_mean is not None and is_recomputed():
        running_mean, running_var = throwaway(running_mean, running_var)
    return _batch_norm.batch_norm(
        input,
        running_mean,
        running_var,
        None,
        weight,
        bias,
        residual,
        training,
        momentum,
        eps,
        activation,
        # An impossible one is refused in evaluation, too.
        dropout if training or not 0 <= dropout <= 1 else 0.0,
        generator,
        seed,
    )


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
        ignore_index: The label that does not count; with probabilities it must be negative and has no say.
        reduce: Deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: :math:`\epsilon`, 0 to 1.
        target2: Second labels, as of mixup and cutmix, of the target's shape; together with lam.
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
            gradient; inplace_backward with a leaf or shared memory; target2 without lam, or beside probabilities.
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
    return _cross_entropy.cross_entropy(
        input,
        target,
        weight,
        ignore_index,
        _cross_entropy.legacy_reduction(size_average, reduce, reduction),
        label_smoothing,
        target2,
        lam,
        z_loss,
        inplace_backward,
        return_stats,
    )

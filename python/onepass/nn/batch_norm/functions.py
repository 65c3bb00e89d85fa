"""The function of batch normalisation, which `onepass.nn.functional` offers."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from onepass._arguments import as_flag, told
from onepass.nn._call.checks import check_number
from onepass.nn._call.recomputation import is_recomputed, throwaway
from onepass.nn.batch_norm._call import normalise
from onepass.nn.batch_norm._kernels import Running

__all__ = ["batch_norm"]


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
        momentum: How far the running statistics move towards the batch's. The name is torch's: other libraries
            call 1 minus this number momentum.
        eps: Added to the variance; positive in training.
        activation: None or ``"relu"``.
        residual: r, of x's shape and dtype, added before the activation.
        dropout: Probability, 0 to 1, that an element becomes 0 in training; the others are divided by
            1 - dropout. Which ones depends only on the seed and the index in (N, C, ...), not on layout,
            threads or device.
        generator: Draws the seed instead of torch's default generator of the device.
        seed: The seed itself: 0 to 2**64 - 1, or an int64 tensor of one element on x's device.

    Returns:
        y, of x's shape, dtype and layout.

    Raises:
        ValueError: Training with one value per channel; momentum is not finite; eps is not positive in training,
            or negative; one of the running statistics without the other, or none of them when not training;
            dropout is not in [0, 1]; activation is unknown; seed and generator are both given, or one of them
            without dropout; a shape is wrong.
        TypeError: A dtype is not supported, or a tensor is sparse or nested.

    Differs from torch: statistics are as accurate with channels_last as without (torch sums them in float32
    there: a thousand times the error), and have the same bits for any number of threads. The running
    statistics' version counters count, and the recomputation of activation checkpointing does not move them. x
    that is channels last beyond 4-D and 5-D, such as a transposed (N, L, C), gives y of the same layout. A
    wrong size of a vector raises ValueError, and a rejected call has changed nothing. Under torch.func and
    forward-mode differentiation it is composed of torch's own functions.

    Source: Ioffe and Szegedy 2015; torch.nn.functional.batch_norm; Srivastava et al. 2014.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import batch_norm
        >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
        >>> y = batch_norm(x, None, None, training=True, activation="relu")
        >>> y.round(decimals=3)
        tensor([[0., 0.],
                [1., 1.]])
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
        raise TypeError(f"batch_norm: momentum must be a number, got {told(momentum)}")
    training = training if type(training) is bool else as_flag("batch_norm", "training", training)
    check_number("batch_norm", "dropout", dropout)
    if dropout == 0 and (generator is not None or seed is not None):
        given = "seed" if generator is None else "generator"
        raise ValueError(f"batch_norm: {given} must be None with dropout=0, got one")
    if training and running_mean is not None and is_recomputed():
        running_mean, running_var = throwaway(running_mean, running_var)
    return normalise(
        input,
        Running(running_mean, running_var, None),
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

"""The functions of layer and RMS normalisation, which `onepass.nn.functional` offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from onepass.nn._call.checks import check_number
from onepass.nn.row_norm._call import normalise
from onepass.nn.row_norm._checks import shape_of

__all__ = ["layer_norm", "rms_norm"]


@overload
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> Tensor: ...


@overload
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Normalises each row by its mean and variance; drops and adds a residual before that in the same pass.

    .. math::
        h = r + \operatorname{dropout}(x), \qquad
        y = \frac{h - \mathrm{E}[h]}{\sqrt{\mathrm{Var}[h] + \epsilon}} \cdot w + b

    A row is what `normalized_shape` spans; E and Var (biased) are its own. For the backward pass h is kept, which
    the next block keeps anyway, and two numbers a row; nothing else of the input's size. Without a residual h is
    x.

    Args:
        input: x, of shape (..., normalized_shape): float32, float64, bfloat16 or float16. It is read as it is
            where it is contiguous.
        normalized_shape: The sizes of the last dimensions, which a row has.
        weight: w, of shape normalized_shape, or None for 1. Weight and bias are float32 with a half precision
            input, or of its dtype; with float32 and float64 of the input's dtype.
        bias: b, as weight, or None for 0.
        eps: Added to the variance.
        residual: r, of x's shape and dtype.
        dropout: Probability, 0 to 1, that an element of x becomes 0 before r is added; the others are divided by
            1 - dropout. Only with a residual; pass 0 in evaluation. The mask is that of
            `onepass.nn.functional.dropout` with the same seed.
        generator: Draws the seed instead of torch's default generator of the device.
        seed: The seed itself: 0 to 2**64 - 1, or an int64 tensor of one element on x's device.

    Returns:
        y, of x's shape and dtype, contiguous. With a residual (y, h), so that the next block has its residual.

    Raises:
        ValueError: A shape is wrong; eps is nan; dropout is not in [0, 1], or given without a residual; seed
            and generator are both given, or one of them without dropout.
        TypeError: A dtype is not supported, or a tensor is sparse or nested.

    Differs from torch: residual, dropout, generator and seed. Sums are formed around a shift and merged in a fixed
    tree, so results have the same bits for any number of threads, and the gradients of weight and bias, too. A
    wrong shape raises ValueError and not RuntimeError. h is not rounded before the dropout's gradient is made of
    its gradient.

    Source: Ba, Kiros and Hinton 2016; torch.nn.functional.layer_norm.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import layer_norm
        >>> layer_norm(torch.tensor([[1.0, 2.0, 3.0]]), [3]).round(decimals=3)
        tensor([[-1.2250,  0.0000,  1.2250]])
        >>> x = torch.ones(2, 4)
        >>> y, h = layer_norm(x, [4], residual=x, dropout=0.5, seed=0)
        >>> h.shape
        torch.Size([2, 4])
    """
    tensors = (input, weight, bias, residual)
    if has_torch_function_variadic(*tensors):
        found: Tensor | tuple[Tensor, Tensor] = handle_torch_function(
            cast(Any, layer_norm),
            tensors,
            input,
            normalized_shape,
            weight=weight,
            bias=bias,
            eps=eps,
            residual=residual,
            dropout=dropout,
            generator=generator,
            seed=seed,
        )
        return found
    shape = shape_of("layer_norm", normalized_shape)
    _check_seed("layer_norm", dropout, generator, seed)
    check_number("layer_norm", "eps", eps)
    return normalise(True, input, shape, weight, bias, residual, eps, dropout, generator, seed)


@overload
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    residual: None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> Tensor: ...


@overload
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    residual: Tensor,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    residual: Tensor | None = None,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Divides each row by its root mean square; drops and adds a residual before that in the same pass.

    .. math::
        h = r + \operatorname{dropout}(x), \qquad
        y = \frac{h}{\sqrt{\mathrm{E}[h^2] + \epsilon}} \cdot w

    A row is what `normalized_shape` spans. For the backward pass h is kept, which the next block keeps anyway,
    one number a row, and nothing else of the input's size. Without a residual h is x.

    Args:
        input: x, of shape (..., normalized_shape): float32, float64, bfloat16 or float16. It is read as it is
            where it is contiguous.
        normalized_shape: The sizes of the last dimensions, which a row has.
        weight: w, of shape normalized_shape, or None for 1: float32 with a half precision input, or of its dtype;
            with float32 and float64 of the input's dtype.
        eps: Added to the mean of squares. None for the epsilon of float64 with a float64 input, else that of
            float32.
        residual: r, of x's shape and dtype.
        dropout: Probability, 0 to 1, that an element of x becomes 0 before r is added, as in `layer_norm`.
        generator: Draws the seed instead of torch's default generator of the device.
        seed: The seed itself: 0 to 2**64 - 1, or an int64 tensor of one element on x's device.

    Returns:
        y, of x's shape and dtype, contiguous. With a residual (y, h), so that the next block has its residual.

    Raises:
        ValueError: A shape is wrong; eps is nan; dropout is not in [0, 1], or given without a residual; seed
            and generator are both given, or one of them without dropout.
        TypeError: A dtype is not supported, or a tensor is sparse or nested.

    Differs from torch: as `layer_norm` does. torch composes it of six operations on the CPU; this is one.

    Source: Zhang and Sennrich 2019; torch.nn.functional.rms_norm.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import rms_norm
        >>> rms_norm(torch.tensor([[3.0, 4.0]]), [2]).round(decimals=3)
        tensor([[0.8490, 1.1310]])
    """
    tensors = (input, weight, residual)
    if has_torch_function_variadic(*tensors):
        found: Tensor | tuple[Tensor, Tensor] = handle_torch_function(
            cast(Any, rms_norm),
            tensors,
            input,
            normalized_shape,
            weight=weight,
            eps=eps,
            residual=residual,
            dropout=dropout,
            generator=generator,
            seed=seed,
        )
        return found
    shape = shape_of("rms_norm", normalized_shape)
    _check_seed("rms_norm", dropout, generator, seed)
    if eps is not None:
        check_number("rms_norm", "eps", eps)
    return normalise(False, input, shape, weight, None, residual, eps, dropout, generator, seed)


def _check_seed(function: str, dropout: Any, generator: Any, seed: Any) -> None:
    check_number(function, "dropout", dropout)
    if dropout == 0 and (generator is not None or seed is not None):
        given = "seed" if generator is None else "generator"
        raise ValueError(f"{function}: {given} must be None with dropout=0, got one")

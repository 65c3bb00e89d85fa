"""Layer and RMS normalisation composed of torch's operations: for torch.func and derivatives of derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onepass.nn._call.seeds import Seed
from onepass.nn.dropout._derivative import differentiate
from onepass.nn.dropout._kernels import options_of
from onepass.nn.row_norm._kernels import Options

__all__ = ["dropped", "forward", "gradients"]

# torch's own, also where a program has put functions of ours in their place.
_layer_norm: Callable[..., Tensor] = torch.layer_norm
_rms_norm: Callable[..., Tensor] = torch.rms_norm


def forward(
    rows: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, options: Options
) -> Tensor:
    """Normalises by torch's functions; what is dropped and added is in `rows` already."""
    if options.centred:
        return _layer_norm(rows, shape, weight, bias, options.eps, torch.backends.cudnn.enabled)
    return _rms_norm(rows, shape, weight, options.eps)


def dropped(grad: Tensor, seed: Seed, p: float) -> Tensor:
    """The gradient that goes through the dropout, differentiable again."""
    assert not callable(seed)
    return differentiate(grad, seed, options_of(p, "inverted", True, False, False))


def gradients(
    grad: Tensor,
    normalised: Tensor,
    weight: Tensor | None,
    options: Options,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    r"""Returns the gradients as functions that autograd can differentiate again, as often as wanted.

    .. math::
        g = dy\, w \qquad dh = \frac{1}{\sigma} \left(g - \overline{g} - \hat h\,\overline{g \hat h}\right)
        \qquad dw = \sum dy\, \hat h \qquad db = \sum dy

    with means over a row and sums over rows; RMS norm has no mean of g.

    Args:
        grad: dy.
        normalised: h. Its statistics are computed again, since h moves them.
        weight: w, of a row's shape, or None.
        options: Those of the call.
        wanted: Whether dh, dw and db are wanted.

    Returns:
        dh, dw and db, each or None, in the arithmetic's dtype; dw and db of one dimension.
    """
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    h = normalised.to(wide).reshape(-1, options.width)
    dy = grad.to(wide).reshape(-1, options.width)
    if options.centred:
        h = h - h.mean(1, keepdim=True)
    unit = h * (h.square().mean(1, keepdim=True) + options.eps).rsqrt()
    dweight = (dy * unit).sum(0) if wanted[1] else None
    dbias = dy.sum(0) if wanted[2] else None
    if not wanted[0]:
        return None, dweight, dbias
    g = dy if weight is None else dy * weight.to(wide).reshape(-1)
    centred = g - g.mean(1, keepdim=True) if options.centred else g
    centred = centred - unit * (g * unit).mean(1, keepdim=True)
    invstd = (h.square().mean(1, keepdim=True) + options.eps).rsqrt()
    return (centred * invstd).reshape(grad.shape), dweight, dbias

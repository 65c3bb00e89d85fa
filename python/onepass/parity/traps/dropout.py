"""Traps of dropout: the mask, its scale, the backward pass."""

from __future__ import annotations

import math

import torch

from onepass.parity.case import Wrong, asked
from onepass.parity.layer import Layer, leaf, normal
from onepass.parity.traps.trap import Trap, trap

__all__ = ["TRAPS"]

TRAPS: list[Trap] = []
_COUNT = 200_000
# A correct implementation goes beyond in one of 500 million runs; the seed is fixed, besides.
_SIGMAS = 6.0


def _sigma(p: float, count: int) -> float:
    return math.sqrt(p * (1 - p) / count)


@trap(TRAPS, "masks of the wrong rate", required=True)
def rate(layer: Layer) -> None:
    """Drops each element with probability p."""
    for p in (0.1, 0.5, 0.9):
        y = layer.dropped(torch.ones(_COUNT, device=layer.device), p)
        share = (y == 0).float().mean().item()
        if abs(share - p) > _SIGMAS * _sigma(p, _COUNT):
            raise Wrong(f"with p={p} a share of {share:.4f} of {_COUNT} elements was dropped")


@trap(TRAPS, "1 / (1 - p) rounded to half precision before the product")
def scale(layer: Layer) -> None:
    """Multiplies what it keeps by 1 / (1 - p), in every dtype."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = normal((4096,), 1, dtype).to(layer.device)
        y = layer.dropped(x, 0.3)
        kept = y != 0
        if y.dtype != dtype:
            raise Wrong(f"the output of {dtype} is {y.dtype}")
        # torch rounds the factor to the dtype before the product.
        off = (y[kept].double() / (x[kept].double() / 0.7) - 1).abs().max().item()
        if off > 2 * torch.finfo(dtype).eps:
            raise Wrong(f"what was kept ({dtype}) is off by a factor of 1 + {off:.2g}")


@trap(TRAPS, "docs/traps.md: a mask that is drawn again in the backward pass")
def backward_uses_the_mask(layer: Layer) -> None:
    """Gives a gradient to the elements that it kept and to no others, with the same factor."""
    x = leaf(torch.ones(_COUNT), layer)
    y = layer.dropped(x, 0.3)
    with asked():
        (dx,) = torch.autograd.grad(y, x, torch.ones(_COUNT, device=layer.device))
    if not torch.equal(dx != 0, y != 0):
        raise Wrong(f"{int(((dx != 0) != (y != 0)).sum())} of {_COUNT} gradients belong to another mask")
    if not torch.allclose(dx, y.detach(), rtol=1e-6):
        raise Wrong("the gradient has another factor than the output")


@trap(TRAPS, "activation checkpointing draws another mask")
def checkpointing_keeps_the_mask(layer: Layer) -> None:
    """Draws the mask again, bit for bit, where activation checkpointing runs the forward pass twice."""
    from torch.utils.checkpoint import checkpoint

    x = leaf(torch.ones(4096), layer)
    with asked():
        y = checkpoint(lambda x: layer.dropped(x, 0.5) * x, x, use_reentrant=False)
        (dx,) = torch.autograd.grad(y.sum(), x)
    if not torch.equal(dx != 0, y != 0):
        raise Wrong("the mask of the second pass is another one")


@trap(TRAPS, "masks that repeat")
def masks_do_not_repeat(layer: Layer) -> None:
    """Draws another mask in each call, and independent elements within a mask."""
    ones = torch.ones(_COUNT, device=layer.device)
    first, second = ((layer.dropped(ones, 0.5) == 0).double().cpu() - 0.5 for _ in "ab")
    limit = _SIGMAS * 0.25 / _COUNT**0.5
    if (first * second).mean().abs() > limit:
        raise Wrong("the masks of two calls are not independent")
    for shift in (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 1024, 4096):
        if (first * first.roll(shift)).mean().abs() > limit:
            raise Wrong(f"elements {shift} apart are not independent")


@trap(TRAPS, "a generator of its own that torch.manual_seed does not reach")
def manual_seed(layer: Layer) -> None:
    """Draws the same mask after the same torch.manual_seed."""
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(layer.dropped(torch.ones(4096, device=layer.device), 0.5) == 0)
    if not torch.equal(masks[0], masks[1]):
        raise Wrong("the masks of one seed differ")
    if torch.equal(masks[0], masks[2]):
        raise Wrong("the masks of two seeds are the same")


@trap(TRAPS, "0 times infinity at p = 1")
def extreme_p(layer: Layer) -> None:
    """Keeps everything as it is with p=0, and makes output and gradient 0 with p=1."""
    for p, wanted in ((0.0, 1.0), (1.0, 0.0)):
        x = leaf(normal((1000,), 1), layer)
        y = layer.dropped(x, p)
        with asked():
            (dx,) = torch.autograd.grad(y, x, torch.ones(1000, device=layer.device))
        if not torch.equal(y, x * wanted) or not (dx == wanted).all():
            raise Wrong(f"with p={p} output or gradient are not {wanted:g} times the input")


@trap(TRAPS, "a flag that is kept from the first call")
def evaluation(layer: Layer) -> None:
    """Keeps everything as it is in evaluation."""
    x = normal((1000,), 1).to(layer.device)
    if not torch.equal(layer.dropped(x, 0.5, training=False), x):
        raise Wrong("the output in evaluation is not the input")


@trap(TRAPS, "kernels that take every input for a dense one")
def strided_input(layer: Layer) -> None:
    """Takes an input that is a view, leaves it and the memory around it as they are, and keeps its order."""
    whole = normal((64, 48), 1).to(layer.device)
    before = whole.clone()
    for view in (whole[:, ::2], whole.t(), whole[1:, 3:]):
        y = layer.dropped(view, 0.5)
        kept = y != 0
        if y.shape != view.shape or not torch.allclose(y[kept], 2 * view[kept]):
            raise Wrong("what was kept is not twice the input")
    if not torch.equal(whole, before):
        raise Wrong("the input has changed")


@trap(TRAPS, "y.sum().backward(): a gradient whose strides are 0")
def expanded_gradient(layer: Layer) -> None:
    """Takes a gradient of one element that is expanded to the output's shape."""
    x = leaf(normal((40, 30), 1), layer)
    y = layer.dropped(x, 0.5)
    with asked():
        (dx,) = torch.autograd.grad(y, x, torch.ones((), device=layer.device).expand(40, 30))
    if not torch.equal(dx, 2.0 * (y != 0)):
        raise Wrong("the gradient is not that of the mask")

"""Traps of cross-entropy: labels, options, extreme logits, the backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.parity.case import Refused, Wrong, asked
from onepass.parity.layer import Layer, compare, leaf, normal, three
from onepass.parity.traps.trap import Trap, trap

__all__ = ["TRAPS"]

TRAPS: list[Trap] = []


def _labels(shape: tuple[int, ...], classes: int, seed: int = 5) -> Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def _moved(value: Any, to: torch.dtype | torch.device) -> Any:
    return value.to(to) if isinstance(value, Tensor) else value


def _torchs(x: Tensor, target: Tensor, dtype: torch.dtype, factor: float, options: dict[str, Any]) -> list[Tensor]:
    """Loss and gradient of torch's function."""
    x = leaf(x.contiguous(), dtype=dtype)
    given: dict[str, Any] = {name: _moved(value, dtype) for name, value in options.items()}
    target = target.to(dtype) if target.is_floating_point() else target
    loss = F.cross_entropy(x, target, **given)
    (grad,) = torch.autograd.grad(factor * loss.sum(), x)
    return [loss.detach(), grad]


def _judge(layer: Layer, x: Tensor, target: Tensor, factor: float = 1.0, only: str = "", **options: Any) -> None:
    """Compares the loss and the gradient, and looks whether the logits have changed."""
    mine = x.detach().to(layer.device).requires_grad_() if x.numel() else leaf(x, layer)
    before = mine.detach().clone()
    there = {name: _moved(value, layer.device) for name, value in options.items()}
    loss = layer.loss(mine, target.to(layer.device), **there)
    with asked():
        (grad,) = torch.autograd.grad(factor * loss.sum(), mine)
    if not torch.equal(mine.detach().nan_to_num(), before.nan_to_num()):
        raise Wrong("the logits have changed")
    torchs, exact = (_torchs(x, target, dtype, factor, options) for dtype in (x.dtype, torch.float64))
    for i, (name, value) in enumerate((("the loss", loss.detach()), ("the gradient", grad))):
        if only in ("", name):
            compare(name, value, torchs[i], exact[i])


@trap(TRAPS, "the rule itself", required=True)
def plain_loss(layer: Layer) -> None:
    """Computes the mean loss of contiguous logits and its gradient."""
    _judge(layer, normal((33, 101), 1), _labels((33,), 101))


@trap(TRAPS, "reductions taken for one another")
def reductions(layer: Layer) -> None:
    """Takes reduction="none" and "sum" into account."""
    for reduction in ("none", "sum"):
        _judge(layer, normal((33, 101), 1), _labels((33,), 101), reduction=reduction)


@trap(TRAPS, "gradients that are computed in the forward pass, for an incoming gradient of 1")
def incoming_gradient(layer: Layer) -> None:
    """Multiplies its gradient by the one that comes in: loss scaling, gradient accumulation."""
    _judge(layer, normal((33, 101), 1), _labels((33,), 101), factor=-48.0)


@trap(TRAPS, "gradients that are computed in the forward pass, for an incoming gradient of 1")
def a_gradient_for_each_row(layer: Layer) -> None:
    """Multiplies each row's gradient by that of the row's own loss with reduction="none"."""
    x, target, weights = normal((33, 101), 1), _labels((33,), 101), normal((33,), 2)
    found = []
    for dtype, subject in three(layer):
        logits = leaf(x, subject, dtype)
        losses = subject.loss(logits, target.to(subject.device), reduction="none")
        with asked():
            found.append(torch.autograd.grad(losses, logits, weights.to(losses))[0])
    compare("the gradient", *found)


@trap(TRAPS, "docs/traps.md: torch's gradient of a label whose float32 probability is 1 is 0")
def confident_label(layer: Layer) -> None:
    """Computes the gradient of a label whose probability rounds to 1: minus the sum of the other classes'."""
    x = torch.zeros(4, 50)
    x[:, 7] = torch.tensor([18.0, 20.0, 25.0, 30.0])
    target = torch.full((4,), 7)
    mine = leaf(x, layer)
    loss = layer.loss(mine, target.to(layer.device), reduction="sum")
    with asked():
        (grad,) = torch.autograd.grad(loss, mine)
    exact = _torchs(x, target, torch.float64, 1.0, {"reduction": "sum"})[1]
    off = (grad.cpu().double() / exact - 1).abs()
    if off.max() > 1e-3:
        row = int(off.max(1)[0].argmax())
        raise Wrong(
            f"with a logit {float(x[row, 7]):g} above the others, its gradient is {float(grad[row, 7]):.2g} "
            f"and not {float(exact[row, 7]):.2g}"
        )


@trap(TRAPS, "rows that are ignored, and counted in the mean")
def ignore_index(layer: Layer) -> None:
    """Leaves out the rows of ignore_index, a negative one and a class, in losses, gradients and the mean."""
    x, target = normal((33, 101), 1), _labels((33,), 101)
    for index in (-100, 7):
        some = target.clone()
        some[::3] = index
        for reduction in ("mean", "none"):
            _judge(layer, x, some, ignore_index=index, reduction=reduction)


@trap(TRAPS, "0 divided by 0")
def all_rows_ignored(layer: Layer) -> None:
    """Gives what torch gives where every row is ignored: a mean of nan, a sum of 0, and no other gradient."""
    x, target = normal((6, 11), 1), torch.full((6,), -100)
    _judge(layer, x, target, reduction="sum")
    _judge(layer, x, target, only="the loss")


@trap(TRAPS, "options that are accepted and ignored")
def class_weights(layer: Layer) -> None:
    """Weighs classes, some of them by 0, and divides the mean by the labels' weights."""
    weight = normal((101,), 3).abs()
    weight[::4] = 0
    _judge(layer, normal((33, 101), 1), _labels((33,), 101), weight=weight)


@trap(TRAPS, "options that are accepted and ignored")
def label_smoothing(layer: Layer) -> None:
    """Smooths labels over all classes."""
    _judge(layer, normal((33, 101), 1), _labels((33,), 101), label_smoothing=0.1)


@trap(TRAPS, "options that are right one by one")
def smoothing_with_weights(layer: Layer) -> None:
    """Smooths labels with weights of the classes and rows that are ignored."""
    target = _labels((33,), 101)
    target[::5] = -100
    weight = normal((101,), 3).abs() + 0.1
    for reduction in ("mean", "none"):
        _judge(layer, normal((33, 101), 1), target, weight=weight, label_smoothing=0.2, reduction=reduction)


@trap(TRAPS, "probabilities taken for labels")
def probabilities(layer: Layer) -> None:
    """Takes a distribution over the classes as target, or refuses it."""
    _judge(layer, normal((33, 101), 1), normal((33, 101), 2).softmax(1))


@trap(TRAPS, "infinity less infinity")
def masked_classes(layer: Layer) -> None:
    """Gives classes with logits of -inf no gradient, and the others their own."""
    x = normal((33, 101), 1)
    target = _labels((33,), 101)
    masked = normal((33, 101), 2) > 0.5
    masked[torch.arange(33), target] = False
    _judge(layer, x.masked_fill(masked, -torch.inf), target)


@trap(TRAPS, "exponentials that overflow")
def large_logits(layer: Layer) -> None:
    """Takes logits around 10,000 and -10,000, and others 200 apart."""
    for offset, spread in ((1e4, 1.0), (-1e4, 1.0), (0.0, 200.0)):
        _judge(layer, normal((33, 101), 1) * spread + offset, _labels((33,), 101), only="the loss")


@trap(TRAPS, "docs/traps.md: Liger writes the gradient over the logits")
def logits_used_by_others(layer: Layer) -> None:
    """Leaves the logits as they are for others that need them: their gradient is right, or autograd raises."""
    x, target = normal((33, 101), 1), _labels((33,), 101)
    found = []
    for dtype, subject in three(layer):
        start = leaf(x, subject, dtype)
        logits = start * 1.0
        other = logits.square().mean()
        loss = subject.loss(logits, target.to(subject.device))
        with asked():
            found.append(torch.autograd.grad(loss + other, start)[0])
    compare("the gradient", *found)


@trap(TRAPS, "sums in half precision")
def half_precision(layer: Layer) -> None:
    """Sums the exponentials of 20,000 half precision logits in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        _judge(layer, normal((5, 20000), 1, dtype), _labels((5,), 20000), reduction="none")


@trap(TRAPS, "blocks whose last part is missing; indices of 16 bits")
def many_classes(layer: Layer) -> None:
    """Takes 70,001 classes, the last of them as a label."""
    target = torch.tensor([70000, 0, 65536, 65535])
    _judge(layer, normal((4, 70001), 1), target, label_smoothing=0.1)


@trap(TRAPS, "classes that are not in the last dimension")
def images(layer: Layer) -> None:
    """Takes logits of (N, C, H, W), contiguous and channels_last."""
    x, target = normal((3, 19, 5, 7), 1), _labels((3, 5, 7), 19)
    _judge(layer, x, target)
    _judge(layer, x.to(memory_format=torch.channels_last), target, reduction="none")


@trap(TRAPS, "kernels that take every input for a dense one")
def strided_logits(layer: Layer) -> None:
    """Takes logits that are a transposed matrix, or every second column of a larger one."""
    _judge(layer, normal((101, 33), 1).t(), _labels((33,), 101))
    _judge(layer, normal((33, 202), 1)[:, ::2], _labels((33,), 101))


@trap(TRAPS, "labels outside the classes: reads of other rows")
def label_outside_the_classes(layer: Layer) -> None:
    """Refuses labels below 0 and beyond the last class."""
    for label in (101, -1):
        target = _labels((33,), 101)
        target[4] = label
        try:
            loss = layer.loss(normal((33, 101), 1).to(layer.device), target.to(layer.device), reduction="none")
        except Refused:
            continue
        raise Wrong(f"the label {label} of 101 classes has a loss of {float(loss.flatten()[4]):.4g}")


@trap(TRAPS, "a backward pass that autograd takes for a constant")
def second_derivative(layer: Layer) -> None:
    """Computes the gradient of a gradient, or refuses it."""
    x, target, found = normal((5, 11), 1), _labels((5,), 11), []
    for dtype, subject in three(layer):
        logits = leaf(x, subject, dtype)
        loss = subject.loss(logits, target.to(subject.device))
        with asked():
            (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
            found.append(torch.autograd.grad(grad.square().sum(), logits)[0])
    compare("the second derivative", *found)

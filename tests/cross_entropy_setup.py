"""One cross-entropy computed three ways: ours, torch's functions in the same dtype, numpy in more than float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import Backend
from onepass.nn.functional import cross_entropy
from reference import cross_entropy as reference

# One class, one row, few and many classes, more than a leaf of the CPU's walk, classes apart in memory, no batch.
SHAPES = ((5,), (3, 1), (1, 7), (33, 10), (5, 129), (3, 4999), (2, 3, 7), (2, 19, 3, 11), (1, 150, 5), (2, 17000))
SHAPE_IDS = ["x".join(map(str, shape)) for shape in SHAPES]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Options:
    kind: str = "labels"
    smoothing: float = 0.0
    weighted: bool = False
    ignored: bool = False
    reduction: str = "mean"
    z_loss: float = 0.0

    def __str__(self) -> str:
        words = [self.kind, f"smoothing{self.smoothing:g}", self.reduction]
        words += ["weighted"] * self.weighted + ["ignored"] * self.ignored + ["z"] * bool(self.z_loss)
        return "-".join(words)


OPTIONS = [
    Options(),
    Options(smoothing=0.1),
    Options(smoothing=0.1, weighted=True, ignored=True),
    Options(weighted=True, reduction="sum", z_loss=0.01),
    Options(smoothing=0.3, ignored=True, reduction="none", z_loss=0.02),
    Options("probabilities"),
    Options("probabilities", smoothing=0.1, weighted=True, reduction="none"),
    Options("two", ignored=True),
    Options("two", smoothing=0.1, weighted=True, reduction="sum"),
    Options("two per sample", smoothing=0.2, reduction="none", z_loss=0.01),
]


@dataclass
class Inputs:
    x: Tensor
    target: Tensor
    target2: Tensor | None
    lam: float | Tensor | None
    weight: Tensor | None
    grad: Tensor


def rows_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return () if len(shape) == 1 else shape[:1] + shape[2:]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, options: Options, seed: int = 0, spread: float = 3
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    dim = min(1, len(shape) - 1)
    classes, rows = shape[dim], rows_shape(shape)

    def labels() -> Tensor:
        found = torch.randint(0, classes, rows, generator=generator)
        if options.ignored and found.numel() > 1:
            found.view(-1)[1::3] = -100
        return found

    target2 = lam = None
    target = labels()
    if options.kind == "probabilities":
        target = torch.randn(shape, generator=generator).softmax(dim).to(dtype)
    elif options.kind != "labels":
        target2, lam = labels(), 0.3
        if options.kind == "two per sample":
            lam = torch.rand(shape[:1] if len(shape) > 1 else (1,), generator=generator)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad = torch.rand(rows if options.reduction == "none" else (), generator=generator).to(wide) + 0.5
    weight = (torch.rand(classes, generator=generator) + 0.5).to(dtype) if options.weighted else None
    x = (torch.randn(shape, generator=generator) * spread).to(dtype)
    return Inputs(x, target, target2, lam, weight, grad)


def torchs(given: Inputs, options: Options, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Loss and gradient by torch's functions in a dtype; two labels as one loss each, mixed."""
    x = given.x.to(dtype, copy=True).requires_grad_()
    weight = None if given.weight is None else given.weight.to(dtype)
    more = {"weight": weight, "label_smoothing": options.smoothing}

    def each(target: Tensor) -> tuple[Tensor, Tensor]:
        if target.is_floating_point():
            loss = F.cross_entropy(x, target.to(dtype), **more, reduction="none")
            return loss, torch.ones_like(loss)
        loss = F.cross_entropy(x, target, **more, reduction="none")
        ignored = target == -100
        counts = torch.ones_like(loss) if weight is None else weight[target.masked_fill(ignored, 0)]
        return loss, counts.masked_fill(ignored, 0)

    loss, weights = each(given.target)
    if given.target2 is not None:
        lam = given.lam
        if isinstance(lam, Tensor):
            lam = lam.to(dtype).view([-1] + [1] * (given.target.dim() - 1)) if x.dim() > 1 else lam.to(dtype)[0]
        second, others = each(given.target2)
        loss, weights = lam * loss + (1 - lam) * second, lam * weights + (1 - lam) * others
    if options.z_loss:
        loss = loss + options.z_loss * weights * x.logsumexp(min(1, x.dim() - 1)).square()
    if options.reduction == "mean":
        loss = loss.sum() / weights.sum()
    elif options.reduction == "sum":
        loss = loss.sum()
    return loss.detach(), torch.autograd.grad(loss, x, given.grad.to(dtype))[0]


def exactly(given: Inputs, options: Options) -> tuple[Tensor, Tensor]:
    """Loss and gradient, computed wider than float64 where the machine has it, for float64's own sake."""

    def wide(tensor: Tensor) -> np.ndarray:
        return tensor.double().numpy().astype(np.longdouble)

    shape = tuple(given.x.shape)
    x, grad = reference.rows_of_classes(wide(given.x)), wide(given.grad).reshape(-1)
    classes, rows = x.shape[1], x.shape[0]
    weight = np.ones(classes, np.longdouble) if given.weight is None else wide(given.weight)
    if options.kind == "probabilities":
        y = reference.rows_of_classes(wide(given.target))
        q, weights = weight * ((1 - options.smoothing) * y + options.smoothing / classes), np.ones(rows)
    else:
        labels = [given.target.reshape(-1).numpy()]
        lams = [np.ones(rows, np.longdouble)]
        if given.target2 is not None:
            lam = given.lam if isinstance(given.lam, Tensor) else torch.tensor([given.lam], dtype=torch.float64)
            each = wide(lam).repeat(rows // len(lam))
            labels, lams = [*labels, given.target2.reshape(-1).numpy()], [each, 1 - each]
        q, weights = reference.target_of_labels(labels, lams, weight, options.smoothing, -100)
    rest = (options.z_loss, options.reduction, grad if options.reduction == "none" else grad[0])
    loss, dx = reference.loss_and_gradient(x, q, weights, *rest)
    shaped = np.asarray(loss).reshape(given.grad.shape), reference.like(dx, shape)
    return tuple(torch.from_numpy(np.asarray(one).astype(np.float64)) for one in shaped)


@cache
def expected(
    shape: tuple[int, ...], dtype: torch.dtype, options: Options
) -> tuple[Inputs, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Inputs, torch's results and the exact ones: the same for all layouts and backends."""
    given = inputs(shape, dtype, options)
    return given, torchs(given, options, dtype), exactly(given, options)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """A copy in a layout: contiguous, classes last, strided."""
    if layout == "classes last" and tensor.dim() > 2:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        wide = torch.full((*tensor.shape, 2), float("nan"), dtype=tensor.dtype, device=tensor.device)
        wide[..., 1] = tensor
        return wide[..., 1]
    return tensor.clone()


def ours(
    given: Inputs, options: Options, backend: Backend, layout: str = "contiguous", **more
) -> tuple[Tensor, ...]:
    def there(value):
        return value.to(backend.device) if isinstance(value, Tensor) else value

    x = laid_out(there(given.x), layout).requires_grad_()
    found = cross_entropy(
        x,
        there(given.target),
        there(given.weight),
        reduction=options.reduction,
        label_smoothing=options.smoothing,
        target2=there(given.target2),
        lam=there(given.lam),
        z_loss=options.z_loss,
        **more,
    )
    loss = found[0] if isinstance(found, tuple) else found
    return loss.detach(), torch.autograd.grad(loss, x, there(given.grad))[0], found

"""What is judged: a layer's class or function, next to torch's, in its dtype and in float64."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onepass.parity.case import Wrong, asked
from onepass.parity.rule import error, ulp, within

__all__ = ["BatchNormCall", "Layer", "compare", "leaf", "narrower", "normal", "three"]


@dataclass(frozen=True)
class Layer:
    """Calls an implementation of batch norm, dropout or cross-entropy as torch's class or function is called."""

    implementation: Callable[..., Any]
    op: str
    """batch_norm, dropout or cross_entropy."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_class(self) -> bool:
        """Whether it is a module's class."""
        return isinstance(self.implementation, type)

    def torchs(self) -> Layer:
        """Returns torch's own as a subject, a class for a class."""
        if not self.is_class:
            functions: dict[str, Callable[..., Any]] = {
                "batch_norm": F.batch_norm,
                "dropout": F.dropout,
                "cross_entropy": F.cross_entropy,
            }
            return Layer(functions[self.op], self.op, {}, self.device)
        norm: type[nn.Module] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[self.dims]
        classes = {"batch_norm": norm, "dropout": nn.Dropout, "cross_entropy": nn.CrossEntropyLoss}
        return Layer(classes[self.op], self.op, {}, self.device)

    @property
    def dims(self) -> int:
        """Spatial dimensions of batch norm's input, by the name of a class: BatchNorm1d, 2d, 3d; 2 otherwise."""
        found = re.search(r"([123])d", getattr(self.implementation, "__name__", ""), re.IGNORECASE)
        return int(found[1]) if found and self.op == "batch_norm" else 2

    def shape(self, batch: int, channels: int, height: int, width: int) -> tuple[int, ...]:
        """Returns the shape of an image in as many dimensions as the implementation takes.

        Args:
            batch: Number of images.
            channels: Number of channels.
            height: Their height.
            width: Their width.
        """
        return {
            1: (batch, channels, height * width),
            2: (batch, channels, height, width),
            3: (batch, channels, 1, height, width),
        }[self.dims]

    def make(self, *arguments: Any, **options: Any) -> Any:
        """Makes a module of a class.

        Args:
            *arguments: Its arguments by place.
            **options: Its arguments by name, before those of the caller.
        """
        return self.implementation(*arguments, **{**self.kwargs, **options}).to(self.device)

    def loss(self, logits: Tensor, target: Tensor, **options: Any) -> Any:
        """Calls cross-entropy.

        Args:
            logits: As torch's.
            target: As torch's.
            **options: As torch's.
        """
        with asked():
            if self.is_class:
                return self.make(**options)(logits, target)
            return self.implementation(logits, target, **{**self.kwargs, **options})

    def dropped(self, x: Tensor, p: float = 0.5, training: bool = True) -> Any:
        """Calls dropout.

        Args:
            x: The input.
            p: Probability of an element to be dropped.
            training: Whether elements are dropped.
        """
        with asked():
            if self.is_class:
                return self.make(p).train(training)(x)
            return self.implementation(x, p, training, **self.kwargs)


class BatchNormCall(NamedTuple):
    """Holds what one call of batch norm made."""

    y: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    again: Callable[[Tensor, bool], Tensor]
    """Calls the same layer again: with an input, in training or not."""

    @classmethod
    def of(
        cls,
        layer: Layer,
        x: Tensor,
        vectors: tuple[Tensor, Tensor, Tensor, Tensor],
        training: bool = True,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
    ) -> BatchNormCall:
        """Calls batch norm.

        Args:
            layer: The implementation.
            x: The input.
            vectors: Weight, bias, running mean and running variance, which are copied.
            training: Whether the batch's statistics are used.
            momentum: Share of the batch in the running statistics.
            eps: What is added to the variance.
        """
        weight, bias, mean, var = (vector.detach().to(layer.device, copy=True) for vector in vectors)
        with asked():
            if layer.is_class:
                module = layer.make(len(weight), eps=eps, momentum=momentum).to(weight.dtype)
                with torch.no_grad():
                    for name, vector in (("weight", weight), ("bias", bias)):
                        getattr(module, name).copy_(vector)
                    for name, vector in (("running_mean", mean), ("running_var", var)):
                        getattr(module, name).copy_(vector)

                def again(x: Tensor, training: bool) -> Tensor:
                    y: Tensor = module.train(training)(x)
                    return y

                leaves = module.weight, module.bias, module.running_mean, module.running_var
            else:
                weight.requires_grad_(), bias.requires_grad_()

                def again(x: Tensor, training: bool) -> Tensor:
                    y: Tensor = layer.implementation(
                        x, mean, var, weight, bias, training, momentum, eps, **layer.kwargs
                    )
                    return y

                leaves = weight, bias, mean, var
            return cls(again(x, training), *leaves, again)


def three(layer: Layer) -> tuple[tuple[torch.dtype, Layer], ...]:
    """Returns what `compare` takes, in its order: the implementation, torch's, and torch's in float64.

    Args:
        layer: The implementation.
    """
    return (torch.float32, layer), (torch.float32, layer.torchs()), (torch.float64, layer.torchs())


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draws a tensor; the same seed gives the same numbers, rounded to the dtype.

    Args:
        shape: Its shape.
        seed: Seed of the draw.
        dtype: Its dtype.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def leaf(value: Tensor, layer: Layer | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Makes a leaf with a gradient that keeps the layout of the value.

    Args:
        value: Its values.
        layer: On whose device; the CPU without one.
        dtype: Its dtype, if another one.
    """
    device = torch.device("cpu") if layer is None else layer.device
    return value.detach().to(device, dtype or value.dtype, copy=True).requires_grad_()


def narrower(one: Tensor, other: Tensor) -> torch.dtype:
    """Returns the dtype of two with the larger unit.

    Args:
        one: A tensor.
        other: Another one.
    """
    return max(one.dtype, other.dtype, key=lambda dtype: torch.finfo(dtype).eps)


def compare(what: str, mine: Tensor, torchs: Tensor, exact: Tensor) -> None:
    """Applies the parity rule.

    Args:
        what: What is compared, for the message.
        mine: The implementation's.
        torchs: torch's. Where dtypes differ, both are rounded to the narrower one.
        exact: torch's in float64.

    Raises:
        Wrong: The rule breaks, or the shape is another one.
    """
    if mine.shape != exact.shape:
        raise Wrong(f"{what} has the shape {tuple(mine.shape)} and not {tuple(exact.shape)}")
    mine = mine.to(narrower(mine, torchs))
    verdict = within(mine.detach(), torchs.detach().to(mine), exact.detach())
    if not verdict.ok:
        off = error(mine, exact)
        over = int((off > 2 * verdict.torch_error + ulp(exact.detach().cpu(), mine.dtype)).sum())
        raise Wrong(
            f"{what} ({str(mine.dtype).removeprefix('torch.')}) is off by {verdict.error:.2g}, "
            f"{verdict.limit:.2g} is allowed, in {over} of {off.numel()} elements"
        )

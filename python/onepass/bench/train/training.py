"""What one competitor of `onepass bench train` does: a model, its data, and a whole step of its training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onepass.bench.memory import kept_bytes
from onepass.bench.train.layers import KITS, Kit
from onepass.bench.train.models import GPT, MLP, Chain, ResNet18

__all__ = ["VARIANTS", "WORKS", "Training", "Variant", "Work"]


@dataclass(frozen=True)
class Variant:
    """Says what a competitor is made of."""

    kit: str
    """A key of `KITS`."""
    fused: bool = False
    """Whether torch's optimizer is the fused one."""
    compiled: bool = False
    """Whether model and loss are under torch.compile."""


VARIANTS = {
    "ours": Variant("ours"),
    "torch": Variant("torch"),
    "torch-fused": Variant("torch", fused=True),
    "compile": Variant("torch", compiled=True),
    "compile-fused": Variant("torch", fused=True, compiled=True),
    "ours-compile": Variant("ours", compiled=True),
}


@dataclass(frozen=True)
class Work:
    """Describes a training: the model, and the data of a step."""

    name: str
    model: Callable[[Kit], nn.Module]
    shape: tuple[int, ...]
    """Shape of the input."""
    classes: int = 10
    """Number of classes; 0 where the output is not judged and its gradient is given."""
    is_tokens: bool = False
    """Whether the input is tokens, each of which is to be told from those before it."""
    optimizer: str = "adamw"
    """``adamw`` or ``sgd``."""
    channels_last: bool = False
    autocast: bool = False
    """Whether the forward pass is in bfloat16 autocast."""
    rounds: int = 20


def _chain(channels: int) -> Callable[[Kit], nn.Module]:
    return lambda kit: Chain(kit, channels)


_IMAGES = (32, 3, 32, 32)
WORKS = (
    Work("gpt", GPT, (4, 256), 32_000, is_tokens=True),
    Work("resnet18-channels_last", ResNet18, _IMAGES, optimizer="sgd", channels_last=True),
    Work("resnet18-nchw", ResNet18, _IMAGES, optimizer="sgd"),
    Work("resnet18-bfloat16-channels_last", ResNet18, _IMAGES, optimizer="sgd", channels_last=True, autocast=True),
    Work("mlp", MLP, (4096, 512)),
    *(
        Work(
            f"chain-{'x'.join(map(str, shape))}-{'channels_last' if last else 'nchw'}",
            _chain(shape[1]),
            shape,
            0,
            channels_last=last,
            rounds=40,
        )
        for shape in ((32, 64, 56, 56), (32, 256, 8, 8))
        for last in (True, False)
    ),
)


class Training:
    """Holds a model with its data and optimizer.

    Args:
        work: What is trained.
        variant: What it is made of.
    """

    def __init__(self, work: Work, variant: Variant) -> None:
        kit = KITS[variant.kit]
        torch.manual_seed(0)
        self.work = work
        self.model = work.model(kit)
        self.optimizer = getattr(kit, work.optimizer)(self.model, variant.fused) if work.classes else None
        self.loss_of = kit.loss(variant.compiled)
        self.x, self.y = self._data()
        if work.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # lacks a stub
        self.forward = self._forward_and_loss
        if variant.compiled:
            self.forward = torch.compile(self._forward_and_loss)

    def _data(self) -> tuple[Tensor, Tensor]:
        work = self.work
        if work.is_tokens:
            tokens = torch.randint(work.classes, (work.shape[0], work.shape[1] + 1))
            return tokens[:, :-1], tokens[:, 1:].flatten()
        x = torch.randn(work.shape)
        if work.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if not work.classes:
            return x.requires_grad_(), torch.randn_like(x)
        return x, torch.randint(work.classes, (work.shape[0],))

    def _forward_and_loss(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if self.work.autocast else nullcontext():
            output: Tensor = self.model(self.x)
            return self.loss_of(output, self.y) if self.work.classes else output

    def step(self) -> Tensor:
        """Takes a whole step; returns the loss, or the output where there is none."""
        if self.optimizer is not None:
            self.optimizer.zero_grad()
            loss = self.forward()
            torch.autograd.backward(loss)
            self.optimizer.step()
            return loss.detach()
        self.model.zero_grad()
        self.x.grad = None
        output = self.forward()
        torch.autograd.backward(output, self.y)
        return output.detach()

    def kept(self) -> int:
        """Measures the bytes that autograd keeps of a forward pass, besides parameters and data."""
        return kept_bytes(self.forward, [*self.model.parameters(), *self.model.buffers(), self.x, self.y])

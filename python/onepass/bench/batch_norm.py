"""Batch norm in training next to torch's: forward, forward with backward, with ReLU, residual and dropout.

Competitors: ``ours``; ``torch``, torch.nn.functional's functions one after another, ReLU in place as models have
it; ``stream``, a plain loop that moves as many bytes as the operation has to. The bytes are counted as if each
tensor were read once: forward x and y; backward x, dy and dx; a residual and its gradient once each. Where a
channel does not fit in the cache more bytes must move, so 100 % cannot be reached there. ``compile`` is torch's
functions under torch.compile. All competitors run on tensors of the same layout, contiguous or channels_last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import onepass.nn
from onepass.bench import layers
from onepass.bench.entrants import Entrant
from onepass.bench.harness import Case

_DROPOUT = 0.1


@dataclass(frozen=True)
class Work(layers.Work):
    """Describes a batch norm of one tensor."""

    relu: bool = False
    residual: bool = False
    dropout: bool = False

    @property
    def tensors_moved(self) -> int:
        """Forward x, y and the residual; backward x, dy, dx and the residual's gradient."""
        forward = 2 + self.residual
        return forward + (3 + self.residual if self.backward else 0)


_RESNET = (32, 64, 56, 56)
WORKS = (
    Work("forward", _RESNET, backward=False),
    Work("forward-channels_last", _RESNET, channels_last=True, backward=False),
    Work("train", _RESNET),
    Work("train-channels_last", _RESNET, channels_last=True),
    Work("train-bfloat16-channels_last", _RESNET, channels_last=True, dtype=torch.bfloat16),
    Work("relu", _RESNET, relu=True),
    Work("relu-channels_last", _RESNET, channels_last=True, relu=True),
    Work("add-relu", _RESNET, relu=True, residual=True),
    Work("add-relu-channels_last", _RESNET, channels_last=True, relu=True, residual=True),
    Work("relu-dropout", _RESNET, relu=True, dropout=True),
    Work("relu-dropout-bfloat16", _RESNET, relu=True, dropout=True, dtype=torch.bfloat16),
    Work("train-32x3x224x224", (32, 3, 224, 224)),
    Work("train-64x256x14x14", (64, 256, 14, 14), rounds=30),
    Work("train-4096x512", (4096, 512), rounds=30),
)


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: Where their tensors are.
    """
    return list(_cases(device))


def _cases(device: torch.device) -> Iterator[Case]:
    for work in WORKS:
        yield _case(work, device)
    channels = layers.OVERHEAD[1]
    ours, torchs = (partial(one.BatchNorm1d, channels, device=device) for one in (onepass.nn, torch.nn))
    for mode in ("train", "eval", "eval-no_grad"):
        yield layers.overhead_case(mode, ours, torchs, device)


class _Competitors(layers.Competitors[Work]):
    heap_tensors: ClassVar[int] = 12
    stands_for: ClassVar[str] = "batch_norm"

    def __init__(self, work: Work, device: torch.device) -> None:
        super().__init__(work, device)
        self.dy, self.residual = work.tensor(device), work.tensor(device)
        channels = work.shape[1]
        self.weight, self.bias = (torch.rand(channels, device=device) + 0.5 for _ in range(2))
        self.mean, self.var = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        if work.dtype.itemsize != 2:
            self.weight, self.bias = self.weight.to(work.dtype), self.bias.to(work.dtype)
        self.leaves += [self.weight, self.bias] + ([self.residual] if work.residual else [])

    def ours(self) -> Tensor:
        """Calls our function."""
        return onepass.nn.functional.batch_norm(
            self.x,
            self.mean,
            self.var,
            self.weight,
            self.bias,
            True,
            activation="relu" if self.work.relu else None,
            residual=self.residual if self.work.residual else None,
            dropout=_DROPOUT if self.work.dropout else 0.0,
        )

    def torchs(self) -> Tensor:
        """Calls torch's functions, one after another."""
        y = F.batch_norm(self.x, self.mean, self.var, self.weight, self.bias, True)
        if self.work.residual:
            y = y + self.residual
        if self.work.relu:
            y = F.relu(y, inplace=True)
        return F.dropout(y, _DROPOUT) if self.work.dropout else y

    def theirs(self, entrant: Entrant) -> Callable[[], Tensor] | None:
        """Calls a function with torch's arguments, or a module; fits batch norm without anything behind it.

        Args:
            entrant: The implementation.
        """
        work = self.work
        if work.relu or work.residual or work.dropout:
            return None
        if not entrant.is_class:
            return lambda: entrant(self.x, self.mean, self.var, self.weight, self.bias, training=True)
        if entrant.dimensions not in ("", {4: "2d", 2: "1d"}[len(work.shape)]):
            return None
        module = entrant(work.shape[1]).to(self.x.device)
        self.weight, self.bias = (torch.nn.Parameter(tensor) for tensor in (self.weight, self.bias))
        module.weight, module.bias = self.weight, self.bias
        module.running_mean, module.running_var = self.mean, self.var
        self.leaves = [self.x, self.weight, self.bias]
        return lambda: module(self.x)

    def results(self, forward: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Computes output, gradients and running statistics.

        Args:
            forward: `torchs`, or what `theirs` made.
        """
        self.mean.zero_(), self.var.fill_(1.0)
        found = super().results(forward)
        return {**found, "running_mean": self.mean.clone(), "running_var": self.var.clone()}


def _case(work: Work, device: torch.device) -> Case:
    notes = partial(_kept_for_backward, work, device) if work.backward else None
    return layers.case_of(_Competitors, work, device, notes)


def _kept_for_backward(work: Work, device: torch.device) -> list[str]:
    """Writes a line with the bytes per element that autograd keeps, for ours and for torch's functions."""
    ours, torchs = (kept / work.numel for kept in _Competitors(work, device).kept())
    return [f"kept for backward, bytes per element: ours {ours:.4g}, torch {torchs:.4g}"]

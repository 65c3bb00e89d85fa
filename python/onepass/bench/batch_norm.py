"""Batch norm in training beside torch's: forward, forward with backward, with ReLU, residual and dropout.

Competitors: ``ours``; ``torch``, the same by torch.nn.functional one after another, ReLU in place as models have
it; ``stream``, a plain loop that moves as many bytes as the operation has to. Those are counted as if each tensor
were read once: forward x and y; backward x, dy and dx; a residual and its gradient once each. Where a channel does
not fit in the cache more must move, so that 100 % cannot be reached there. ``compile`` is torch's functions under
torch.compile. Both of ours and torch's passes run on the same tensors, contiguous or channels_last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import onepass.nn
from onepass.bench.harness import OURS, STREAM, Case, Step, repeated
from onepass.bench.memory import kept_bytes, touch_heap
from onepass.bench.optim import probe

_DROPOUT = 0.1
# More than any competitor has at a time.
_HEAP_TENSORS = 12


@dataclass(frozen=True)
class Work:
    """One operation on one tensor."""

    name: str
    shape: tuple[int, ...]
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    backward: bool = True
    relu: bool = False
    residual: bool = False
    dropout: bool = False
    rounds: int = 15

    @property
    def numel(self) -> int:
        """Elements of the input."""
        return torch.Size(self.shape).numel()

    @property
    def bytes_moved(self) -> int:
        """What must be read and written at least."""
        tensors = 2 + self.residual
        if self.backward:
            tensors += 3 + self.residual
        return tensors * self.numel * self.dtype.itemsize


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
# So small that what is timed is Python.
_OVERHEAD = (8, 8)


def cases(device: torch.device) -> list[Case]:
    """All cases, with their tensors on `device`."""
    return list(_cases(device))


def _cases(device: torch.device) -> Iterator[Case]:
    for work in WORKS:
        yield _case(work, device)
    yield _overhead_case("train", device)
    yield _overhead_case("eval", device)
    yield _overhead_case("eval-no_grad", device)


class _Tensors:
    """Inputs of one operation, and what runs it on them."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self.work = work
        channels = work.shape[1]
        half = work.dtype.itemsize == 2
        self.x, self.dy, self.residual = (self._large(work, device) for _ in range(3))
        self.weight, self.bias = (torch.rand(channels, device=device) + 0.5 for _ in range(2))
        self.mean, self.var = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        if not half:
            self.weight, self.bias = self.weight.to(work.dtype), self.bias.to(work.dtype)
        self.leaves = [self.x, self.weight, self.bias] + ([self.residual] if work.residual else [])
        if work.backward:
            for leaf in self.leaves:
                leaf.requires_grad_()

    @staticmethod
    def _large(work: Work, device: torch.device) -> Tensor:
        tensor = torch.randn(work.shape, device=device).to(work.dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if work.channels_last else tensor

    def ours(self) -> Tensor:
        """The operation by one call."""
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
        """The same by torch's functions."""
        y = F.batch_norm(self.x, self.mean, self.var, self.weight, self.bias, True)
        if self.work.residual:
            y = y + self.residual
        if self.work.relu:
            y = F.relu(y, inplace=True)
        return F.dropout(y, _DROPOUT) if self.work.dropout else y

    def step(self, forward: Callable[[], Tensor]) -> Step:
        """The forward pass, and the backward one if it is wanted."""
        if not self.work.backward:
            return forward
        return lambda: torch.autograd.grad(forward(), self.leaves, self.dy)


def _case(work: Work, device: torch.device) -> Case:
    def setup() -> dict[str, Step]:
        tensors = _Tensors(work, device)
        touch_heap(tensors.x, _HEAP_TENSORS)
        return {
            OURS: tensors.step(tensors.ours),
            "torch": tensors.step(tensors.torchs),
            STREAM: probe(work.bytes_moved, 1, device),
        }

    def compiled() -> Step:
        tensors = _Tensors(work, device)
        return tensors.step(torch.compile(tensors.torchs))

    return Case(
        name=work.name,
        bytes_moved=work.bytes_moved,
        rounds=work.rounds,
        setup=setup,
        compiled=compiled,
        notes=(lambda: [kept_for_backward(work, device)]) if work.backward else None,
    )


def kept_for_backward(work: Work, device: torch.device) -> str:
    """A line that tells the bytes per element which autograd keeps, by ours and by torch's functions."""
    tensors = _Tensors(work, device)
    ours, torchs = (kept_bytes(run) / work.numel for run in (tensors.ours, tensors.torchs))
    return f"kept for backward, bytes per element: ours {ours:.4g}, torch {torchs:.4g}"


def _overhead_case(mode: str, device: torch.device) -> Case:
    def setup() -> dict[str, Step]:
        x = torch.randn(_OVERHEAD, device=device)
        kinds = {OURS: onepass.nn.BatchNorm1d, "torch": torch.nn.BatchNorm1d}
        steps = {
            name: repeated(kind(_OVERHEAD[1], device=device).train(mode == "train"), x)
            for name, kind in kinds.items()
        }
        return {name: torch.no_grad()(step) for name, step in steps.items()} if mode == "eval-no_grad" else steps

    return Case(name=f"overhead-{mode}", bytes_moved=None, rounds=60, setup=setup)

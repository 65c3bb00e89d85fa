"""Dropout in training beside torch's: forward, forward with backward, with a residual.

Competitors: ``ours``; ``torch``, the same by torch.nn.functional; ``stream``, a plain loop that moves as many
bytes as the operation has to: x and y forward, dy and dx backward, a residual once (its gradient is dy itself);
``copy``, forward alone, a plain copy of x, past the caches: "theirs/ours" is our share of its bandwidth.
``compile`` is torch's functions under torch.compile. The cases ``forward-bfloat16-beside-float32`` time ours in
bfloat16 beside ours in float32 (``float32``) instead: elements per second.
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
from onepass.bench.optim import copy_probe, probe

# More than any competitor has at a time.
_HEAP_TENSORS = 8


@dataclass(frozen=True)
class Work:
    """One operation on one tensor."""

    name: str
    shape: tuple[int, ...]
    p: float = 0.1
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    backward: bool = True
    residual: bool = False
    inplace: bool = False
    function: str = "dropout"
    rounds: int = 15

    @property
    def numel(self) -> int:
        """Elements of the input."""
        return torch.Size(self.shape).numel()

    @property
    def bytes_moved(self) -> int:
        """What must be read and written at least."""
        tensors = 2 + self.residual + 2 * self.backward
        return tensors * self.numel * self.dtype.itemsize


_LARGE = (16 * 1024 * 1024,)
_IMAGES = (32, 64, 56, 56)
WORKS = (
    Work("forward", _LARGE, backward=False),
    Work("forward-p0.5", _LARGE, p=0.5, backward=False),
    Work("forward-inplace", _LARGE, backward=False, inplace=True),
    Work("forward-bfloat16", _LARGE, dtype=torch.bfloat16, backward=False),
    Work("train", _LARGE),
    Work("train-p0.5", _LARGE, p=0.5),
    Work("train-bfloat16", _LARGE, dtype=torch.bfloat16),
    Work("train-residual", _LARGE, residual=True),
    Work("train-residual-p0.5", _LARGE, p=0.5, residual=True),
    Work("train-residual-bfloat16", _LARGE, residual=True, dtype=torch.bfloat16),
    Work("train-channels_last", _IMAGES, channels_last=True),
    Work("train-dropout2d", _IMAGES, function="dropout2d"),
    Work("train-dropout2d-channels_last", _IMAGES, function="dropout2d", channels_last=True),
    Work("train-alpha", _LARGE, function="alpha_dropout"),
    Work("train-256x1024", (256, 1024), rounds=60),
)
# So small that what is timed is Python.
_OVERHEAD = (8, 8)


def cases(device: torch.device) -> list[Case]:
    """All cases, with their tensors on `device`."""
    return list(_cases(device))


def _cases(device: torch.device) -> Iterator[Case]:
    for work in WORKS:
        yield _case(work, device)
    for p in (0.1, 0.5):
        yield _dtypes_case(p, device)
    for training in (True, False):
        yield _overhead_case(training, device)


class _Tensors:
    """Inputs of one operation, and what runs it on them."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self.work = work
        self.x, self.dy, self.residual = (self._large(work, device) for _ in range(3))
        self.leaves = [self.x] + ([self.residual] if work.residual else [])
        if work.backward:
            for leaf in self.leaves:
                leaf.requires_grad_()

    @staticmethod
    def _large(work: Work, device: torch.device) -> Tensor:
        tensor = torch.randn(work.shape, device=device).to(work.dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if work.channels_last else tensor

    def ours(self) -> Tensor:
        """The operation by one call."""
        work = self.work
        more = {"residual": self.residual} if work.residual else {}
        function = getattr(onepass.nn.functional, work.function)
        output: Tensor = function(self.x, work.p, True, work.inplace, **more)
        return output

    def torchs(self) -> Tensor:
        """The same by torch's functions."""
        y: Tensor = getattr(F, self.work.function)(self.x, self.work.p, True, self.work.inplace)
        return y + self.residual if self.work.residual else y

    def step(self, forward: Callable[[], Tensor]) -> Step:
        """The forward pass, and the backward one if it is wanted."""
        if not self.work.backward:
            return forward
        return lambda: torch.autograd.grad(forward(), self.leaves, self.dy)


def _case(work: Work, device: torch.device) -> Case:
    def setup() -> dict[str, Step]:
        tensors = _Tensors(work, device)
        touch_heap(tensors.x, _HEAP_TENSORS)
        competitors = {
            OURS: tensors.step(tensors.ours),
            "torch": tensors.step(tensors.torchs),
            STREAM: probe(work.bytes_moved, 1, device),
        }
        if not work.backward and not work.inplace:
            competitors["copy"] = copy_probe(work.bytes_moved, device)
        return competitors

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


def _dtypes_case(p: float, device: torch.device) -> Case:
    half = Work("", _LARGE, p=p, dtype=torch.bfloat16, backward=False)
    full = Work("", _LARGE, p=p, backward=False)

    def setup() -> dict[str, Step]:
        names = {OURS: half, "float32": full}
        return {name: _Tensors(work, device).ours for name, work in names.items()}

    return Case(name=f"forward-bfloat16-beside-float32-p{p:g}", bytes_moved=None, rounds=15, setup=setup)


def kept_for_backward(work: Work, device: torch.device) -> str:
    """A line that tells what autograd keeps: by ours in all, by torch's functions per element."""
    tensors = _Tensors(work, device)
    ours, torchs = kept_bytes(tensors.ours), kept_bytes(tensors.torchs) / work.numel
    return f"kept for backward: ours {ours} bytes in all, torch {torchs:.4g} bytes per element"


def _overhead_case(training: bool, device: torch.device) -> Case:
    def setup() -> dict[str, Step]:
        x = torch.randn(_OVERHEAD, device=device, requires_grad=True)
        kinds = {OURS: onepass.nn.Dropout, "torch": torch.nn.Dropout}
        return {name: repeated(kind().train(training), x) for name, kind in kinds.items()}

    return Case(name=f"overhead-{'train' if training else 'eval'}", bytes_moved=None, rounds=60, setup=setup)

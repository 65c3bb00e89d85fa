"""What the benchmarks of layers and losses share: work on one tensor, its competitors, and cases made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from onepass.bench.harness import OURS, STREAM, Case, Step
from onepass.bench.memory import kept_bytes, touch_heap
from onepass.bench.probe import probe

__all__ = ["OVERHEAD", "Competitors", "Work", "case_of", "overhead_case"]

# So small that what is timed is Python.
OVERHEAD = (8, 8)


@dataclass(frozen=True)
class Work(ABC):
    """One operation on one tensor."""

    name: str
    shape: tuple[int, ...]
    _: KW_ONLY
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    backward: bool = True
    rounds: int = 15

    @property
    def numel(self) -> int:
        """Elements of the input."""
        return torch.Size(self.shape).numel()

    @property
    @abstractmethod
    def tensors_moved(self) -> int:
        """How many tensors of the input's size must be read and written at least."""

    @property
    def bytes_moved(self) -> int:
        """What must be read and written at least."""
        return self.tensors_moved * self.numel * self.dtype.itemsize

    def tensor(self, device: torch.device) -> Tensor:
        """A tensor as the input is, of random numbers."""
        tensor = torch.randn(self.shape, device=device).to(self.dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if self.channels_last else tensor


W = TypeVar("W", bound=Work)


class Competitors(ABC, Generic[W]):
    """The tensors of one work, and what does it on them."""

    heap_tensors: ClassVar[int]
    """More tensors of the input's size than any competitor has at a time."""

    def __init__(self, work: W, device: torch.device) -> None:
        self.work = work
        self.x = work.tensor(device)
        self.leaves = [self.x]
        """Whose gradients are wanted."""
        self.dy: Tensor | None = None
        """Gradient of the result; None for 1, of a result that is one number."""

    @abstractmethod
    def ours(self) -> Tensor:
        """The operation by one call."""

    @abstractmethod
    def torchs(self) -> Tensor:
        """The same by torch's functions."""

    def step(self, forward: Callable[[], Tensor]) -> Step:
        """The forward pass, and the backward one if it is wanted."""
        if not self.work.backward:
            return forward
        self._require_grad()
        return lambda: torch.autograd.grad(forward(), self.leaves, self.dy)

    def kept(self) -> tuple[int, int]:
        """Bytes that autograd keeps for the backward pass, by ours and by torch's functions."""
        self._require_grad()
        return kept_bytes(self.ours), kept_bytes(self.torchs)

    def _require_grad(self) -> None:
        for leaf in self.leaves:
            leaf.requires_grad_()


def case_of(
    kind: type[Competitors[W]],
    work: W,
    device: torch.device,
    notes: Callable[[], list[str]] | None = None,
    more: Callable[[], dict[str, Step]] | None = None,
) -> Case:
    """The case of one work: ours, torch's and the bandwidth probe, and torch's functions compiled.

    Args:
        kind: Of the competitors.
        work: What they do.
        device: Where their tensors lie.
        notes: Makes lines that are shown with the times.
        more: Makes further competitors.
    """

    def setup() -> dict[str, Step]:
        competitors = kind(work, device)
        touch_heap(competitors.x, kind.heap_tensors)
        return {
            OURS: competitors.step(competitors.ours),
            "torch": competitors.step(competitors.torchs),
            STREAM: probe(work.bytes_moved, 1, device),
            **({} if more is None else more()),
        }

    def compiled() -> Step:
        competitors = kind(work, device)
        return competitors.step(torch.compile(competitors.torchs))

    return Case(work.name, work.bytes_moved, work.rounds, setup, compiled, notes)


def overhead_case(
    mode: str,
    ours: Callable[[], torch.nn.Module],
    torchs: Callable[[], torch.nn.Module],
    device: torch.device,
    requires_grad: bool = False,
) -> Case:
    """The case of two modules' calls on a tensor of shape `OVERHEAD`.

    Args:
        mode: Of the modules: train, eval, or eval-no_grad.
        ours: Makes our module.
        torchs: Makes torch's.
        device: Where the tensor lies.
        requires_grad: Whether it requires a gradient.
    """

    def setup() -> dict[str, Step]:
        x = torch.randn(OVERHEAD, device=device, requires_grad=requires_grad)
        makers = {OURS: ours, "torch": torchs}
        steps = {name: _repeated(make().train(mode == "train"), x) for name, make in makers.items()}
        return {name: torch.no_grad()(step) for name, step in steps.items()} if mode == "eval-no_grad" else steps

    return Case(name=f"overhead-{mode}", bytes_moved=None, rounds=60, setup=setup)


def _repeated(module: torch.nn.Module, x: Tensor) -> Step:
    """A hundred calls of a module, so that the clock is no part of the time."""

    def step() -> None:
        for _ in range(100):
            module(x)

    return step

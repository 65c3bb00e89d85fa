"""Shared by the benchmarks of layers and losses: work on one tensor, its competitors, and cases made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from onepass.bench.caches import IN_TURN, Consumer, InTurn, flush
from onepass.bench.entrants import Entrant, Entry, largest, limit_of
from onepass.bench.harness import OURS, STREAM, Case, Prepared, Step
from onepass.bench.memory import kept_bytes, touch_heap
from onepass.bench.probe import probe

__all__ = ["OVERHEAD", "Competitors", "Work", "case_of", "overhead_case"]

# A shape so small that what is timed is Python.
OVERHEAD = (8, 8)


@dataclass(frozen=True)
class Work(ABC):
    """Describes one operation on one tensor."""

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
        """The least number of tensors of the input's size that must be read and written."""

    @property
    def bytes_moved(self) -> int:
        """The least bytes that must be read and written."""
        return self.tensors_moved * self.numel * self.dtype.itemsize

    def tensor(self, device: torch.device) -> Tensor:
        """Makes a tensor like the input, of random numbers.

        Args:
            device: Where it is.
        """
        tensor = torch.randn(self.shape, device=device).to(self.dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if self.channels_last else tensor


W = TypeVar("W", bound=Work)


class Competitors(ABC, Generic[W]):
    """Holds the tensors of one work, and the functions that do it."""

    heap_tensors: ClassVar[int]
    """A number of tensors of the input's size above what any competitor has at a time."""
    stands_for: ClassVar[str]
    """What an implementation must compute to join."""

    def __init__(self, work: W, device: torch.device) -> None:
        self.work = work
        self.x = work.tensor(device)
        self.leaves = [self.x]
        """The tensors whose gradients are computed."""
        self.dy: Tensor | None = None
        """Gradient of the result; None, for a result of one number, is 1."""

    @abstractmethod
    def ours(self) -> Tensor:
        """Does the work by our function."""

    @abstractmethod
    def torchs(self) -> Tensor:
        """Does the work by torch's functions."""

    @abstractmethod
    def theirs(self, entrant: Entrant) -> Callable[[], Tensor] | None:
        """Makes the forward pass of an implementation that the user names; None where it does not fit the work.

        Args:
            entrant: The implementation.
        """

    def results(self, forward: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Computes what an implementation is judged by: the output, and the gradients if the work has them.

        Args:
            forward: `torchs`, or what `theirs` made.
        """
        if not self.work.backward:
            return {"output": forward().clone()}
        self._require_grad()
        output = forward()
        grads = torch.autograd.grad(output, self.leaves, self.dy)
        return {"output": output.detach(), **{f"gradient {i}": grad for i, grad in enumerate(grads)}}

    def difference(self, forward: Callable[[], Tensor]) -> tuple[str, float]:
        """Compares an implementation's results with torch's.

        Args:
            forward: What `theirs` made.

        Returns:
            The result that differs most, and by how much.
        """
        wanted = self.results(self.torchs)
        return largest(self.results(forward), wanted)

    def step(self, forward: Callable[[], Tensor]) -> Step:
        """Makes a call of the forward pass, and of the backward pass if the work has it.

        Args:
            forward: `ours`, `torchs`, or what `theirs` made.
        """
        if not self.work.backward:
            return forward
        self._require_grad()
        return lambda: torch.autograd.grad(forward(), self.leaves, self.dy)

    def in_turn(self, forward: Callable[[], Tensor], consumer: Consumer) -> Step:
        """Makes a call as `step` does, between a producer of the input and a consumer of the output.

        Args:
            forward: `ours` or `torchs`.
            consumer: Reads the output, and the input's gradient.
        """
        if not self.work.backward:
            return InTurn(consumer, forward, self.x)
        self._require_grad()
        return InTurn(consumer, forward, self.x, self.leaves, self.dy)

    def kept(self) -> tuple[int, int]:
        """Measures the bytes that autograd keeps for the backward pass, for ours and for torch's functions."""
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
    """Makes the case of one work: ours, torch's, the bandwidth probe, and torch's functions compiled.

    Before each call the caches are emptied. Ours and torch's are there a second time, as `InTurn`.

    Args:
        kind: Class of the competitors.
        work: What they do.
        device: Where their tensors are.
        notes: Makes lines that are shown with the times.
        more: Makes further competitors.
    """

    def setup() -> dict[str, Step]:
        competitors = kind(work, device)
        touch_heap(competitors.x, kind.heap_tensors)
        calls = {OURS: competitors.ours, "torch": competitors.torchs}
        cold = {name: competitors.step(call) for name, call in calls.items()}
        cold |= {STREAM: probe(work.bytes_moved, 1, device), **({} if more is None else more())}
        if device.type != "cpu":  # its timer empties the cache
            return cold
        consumer = Consumer(competitors.x)
        in_turn = {f"{name} ({IN_TURN})": competitors.in_turn(call, consumer) for name, call in calls.items()}
        return {**{name: Prepared(flush, step) for name, step in cold.items()}, **in_turn}

    def compiled() -> Step:
        competitors = kind(work, device)
        return competitors.step(torch.compile(competitors.torchs))

    def join(entrant: Entrant) -> Entry | None:
        # The entrant has tensors of its own: it may write to its input.
        competitors = kind(work, device)
        forward = competitors.theirs(entrant)
        if forward is None:
            return None
        return Entry(
            lambda: competitors.step(forward), lambda: competitors.difference(forward), limit_of(work.dtype)
        )

    return Case(
        work.name,
        work.bytes_moved,
        work.rounds,
        setup,
        compiled,
        notes,
        kind.stands_for,
        join,
        states=(IN_TURN,),
    )


def overhead_case(
    mode: str,
    ours: Callable[[], torch.nn.Module],
    torchs: Callable[[], torch.nn.Module],
    device: torch.device,
    requires_grad: bool = False,
) -> Case:
    """Makes the case of two modules' calls on a tensor of shape `OVERHEAD`.

    Args:
        mode: Mode of the modules: train, eval, or eval-no_grad.
        ours: Makes our module.
        torchs: Makes torch's.
        device: Where the tensor is.
        requires_grad: Whether the tensor requires a gradient.
    """

    def setup() -> dict[str, Step]:
        x = torch.randn(OVERHEAD, device=device, requires_grad=requires_grad)
        makers = {OURS: ours, "torch": torchs}
        steps = {name: _repeated(make().train(mode == "train"), x) for name, make in makers.items()}
        return {name: torch.no_grad()(step) for name, step in steps.items()} if mode == "eval-no_grad" else steps

    return Case(name=f"overhead-{mode}", bytes_moved=None, rounds=60, setup=setup)


def _repeated(module: torch.nn.Module, x: Tensor) -> Step:
    """Makes a hundred calls of a module, so that reading the clock takes no visible part of the time."""

    def step() -> None:
        for _ in range(100):
            module(x)

    return step

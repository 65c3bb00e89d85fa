"""Cross-entropy next to torch's: forward with backward, smoothed or not, few and many classes, two labels.

Competitors: ``ours``; ``torch``, torch.nn.functional.cross_entropy, which needs dense targets for two labels;
``stream``, a plain loop that moves as many bytes as the operation has to: forward reads the logits, backward reads
them and writes their gradient. ``compile`` is torch's function under torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import onepass.nn
from onepass.bench import layers
from onepass.bench.entrants import Entrant
from onepass.bench.harness import Case


@dataclass(frozen=True)
class Work(layers.Work):
    """Describes a loss of one tensor of logits."""

    smoothing: float = 0.0
    two_labels: bool = False

    @property
    def tensors_moved(self) -> int:
        """Forward the logits; backward the logits and their gradient."""
        return 3 if self.backward else 1


_VOCABULARY = (4096, 32000)
WORKS = (
    Work("forward-4096x32000", _VOCABULARY, 0.1, backward=False, rounds=7),
    Work("smoothed-4096x32000", _VOCABULARY, 0.1, rounds=7),
    Work("plain-4096x32000", _VOCABULARY, rounds=7),
    Work("smoothed-4096x32000-bfloat16", _VOCABULARY, 0.1, dtype=torch.bfloat16, rounds=7),
    Work("plain-4096x32000-bfloat16", _VOCABULARY, dtype=torch.bfloat16, rounds=7),
    Work("smoothed-256x1000", (256, 1000), 0.1, rounds=60),
    Work("smoothed-65536x10", (65536, 10), 0.1, rounds=30),
    Work("smoothed-8x19x512x512", (8, 19, 512, 512), 0.1, rounds=9),
    Work("two-labels-4096x1000", (4096, 1000), two_labels=True, rounds=20),
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


class _Competitors(layers.Competitors[Work]):
    heap_tensors: ClassVar[int] = 6
    stands_for: ClassVar[str] = "cross_entropy"

    def __init__(self, work: Work, device: torch.device) -> None:
        super().__init__(work, device)
        rows = work.shape[:1] + work.shape[2:]
        self.first, self.second = (torch.randint(0, work.shape[1], rows, device=device) for _ in range(2))
        self.lam = 0.3

    def ours(self) -> Tensor:
        """Calls our function."""
        more: dict[str, Any] = {"target2": self.second, "lam": self.lam} if self.work.two_labels else {}
        loss = onepass.nn.functional.cross_entropy(
            self.x,
            self.first,
            label_smoothing=self.work.smoothing,
            **more,
        )
        assert isinstance(loss, Tensor)
        return loss

    def torchs(self) -> Tensor:
        """Calls torch's function, with two labels after torch's one_hot."""
        target = self.first
        if self.work.two_labels:
            classes = self.work.shape[1]
            first, second = (F.one_hot(one, classes).to(self.x.dtype) for one in (self.first, self.second))
            target = self.lam * first + (1 - self.lam) * second
        return F.cross_entropy(self.x, target, label_smoothing=self.work.smoothing)

    def theirs(self, entrant: Entrant) -> Callable[[], Tensor] | None:
        """Calls a function with torch's arguments, or a module; fits one label a row.

        Args:
            entrant: The implementation.
        """
        work = self.work
        if work.two_labels:
            return None
        if not entrant.is_class:
            return lambda: entrant(self.x, self.first, label_smoothing=work.smoothing)
        module = entrant(label_smoothing=work.smoothing).to(self.x.device)
        return lambda: module(self.x, self.first)


def _case(work: Work, device: torch.device) -> Case:
    def notes() -> list[str]:
        ours, torchs = kept_beyond_logits(work.shape, work.smoothing, work.dtype, device)
        return [f"kept for backward beyond logits, bytes per logit: ours {ours:.3g}, torch {torchs:.3g}"]

    return layers.case_of(_Competitors, work, device, notes if work.backward and not work.two_labels else None)


def kept_beyond_logits(
    shape: tuple[int, ...],
    smoothing: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> tuple[float, float]:
    """Measures the bytes per logit that autograd keeps for ours and for torch's function, without the logits.

    The logits belong to the caller and stay in any case; torch keeps their log-softmax instead.

    Args:
        shape: Shape of the logits.
        smoothing: Label smoothing.
        dtype: Dtype of the logits.
        device: Where they are; None for the CPU.

    Returns:
        The bytes per logit, ours and torch's.
    """
    work = Work("kept", shape, smoothing, dtype=dtype)
    competitors = _Competitors(work, device or torch.device("cpu"))
    ours, torchs = competitors.kept()
    return (ours - competitors.x.untyped_storage().nbytes()) / work.numel, torchs / work.numel

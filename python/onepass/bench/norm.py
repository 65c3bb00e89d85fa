"""Layer and RMS norm next to torch's: forward with backward, with a residual and dropout before the norm.

Competitors: ``ours``; ``torch``, torch.nn.functional's functions one after another; ``stream``, a plain loop that
moves as many bytes as the operation has to. The bytes are counted as if each tensor were read or written once:
forward x and y, and with a residual r and their sum h; backward x (or h), dy and dx, and with a residual dh; with
dropout dr, too. ``compile`` is torch's functions under torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

import onepass.nn
from onepass.bench import layers
from onepass.bench.entrants import Entrant
from onepass.bench.harness import Case, Step

_DROPOUT = 0.1
_EPS = 1e-5


@dataclass(frozen=True)
class Work(layers.Work):
    """Describes a norm of the rows of one tensor."""

    centred: bool = False
    residual: bool = False
    dropout: bool = False

    @property
    def tensors_moved(self) -> int:
        """Forward x and y, with a residual r and h; backward x, dy and dx, with them dh and dr."""
        forward = 4 if self.residual else 2
        return forward + (3 + self.residual + self.dropout if self.backward else 0)


_ROWS = (4096, 1024)
WORKS = (
    Work("rms", _ROWS),
    Work("rms-bfloat16", _ROWS, dtype=torch.bfloat16),
    Work("add-rms", _ROWS, residual=True),
    Work("layer", _ROWS, centred=True),
    Work("layer-bfloat16", _ROWS, dtype=torch.bfloat16, centred=True),
    Work("layer-65536x64", (65536, 64), centred=True),
    Work("layer-256x16384", (256, 16384), centred=True),
    Work("dropout-add-layer", _ROWS, centred=True, residual=True, dropout=True),
    Work("rms-forward", _ROWS, backward=False),
    Work("layer-forward", _ROWS, centred=True, backward=False),
)


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: Where their tensors are.
    """
    return list(_cases(device))


def _cases(device: torch.device) -> Iterator[Case]:
    for work in WORKS:
        notes = partial(_kept_for_backward, work, device) if work.backward else None
        yield layers.case_of(_Competitors, work, device, notes)
    width = layers.OVERHEAD[1]
    ours, torchs = (partial(one.LayerNorm, width, device=device) for one in (onepass.nn, torch.nn))
    for mode in ("train", "eval-no_grad"):
        yield layers.overhead_case(mode, ours, torchs, device)


class _Competitors(layers.Competitors[Work]):
    heap_tensors: ClassVar[int] = 14
    stands_for: ClassVar[str] = "norm"

    def __init__(self, work: Work, device: torch.device) -> None:
        super().__init__(work, device)
        self.residual, self.dy, self.dh = (work.tensor(device) for _ in range(3))
        width = work.shape[-1]
        self.weight, self.bias = (torch.rand(width, device=device, dtype=work.dtype) + 0.5 for _ in range(2))
        self.leaves += [self.weight] + ([self.bias] if work.centred else [])
        self.leaves += [self.residual] if work.residual else []

    def ours(self) -> Any:
        """Calls our function."""
        work, shape = self.work, [self.work.shape[-1]]
        more: dict[str, Any] = {"residual": self.residual} if work.residual else {}
        if work.dropout:
            more["dropout"] = _DROPOUT
        if work.centred:
            return onepass.nn.functional.layer_norm(self.x, shape, self.weight, self.bias, _EPS, **more)
        return onepass.nn.functional.rms_norm(self.x, shape, self.weight, _EPS, **more)

    def torchs(self) -> Any:
        """Calls torch's functions, one after another."""
        work, shape, h = self.work, [self.work.shape[-1]], self.x
        if work.residual:
            h = (F.dropout(h, _DROPOUT) if work.dropout else h) + self.residual
        if work.centred:
            y = F.layer_norm(h, shape, self.weight, self.bias, _EPS)
        else:
            y = F.rms_norm(h, shape, self.weight, _EPS)
        return (y, h) if work.residual else y

    def theirs(self, entrant: Entrant) -> Callable[[], Tensor] | None:
        """Returns None: no implementation but ours joins.

        Args:
            entrant: The implementation.
        """
        return None

    def step(self, forward: Callable[[], Any]) -> Step:
        """Makes a call of the forward pass and the backward pass of both outputs.

        Args:
            forward: `ours` or `torchs`.
        """
        if not self.work.residual:
            return super().step(forward)
        self._require_grad()
        return lambda: torch.autograd.grad(forward(), self.leaves, [self.dy, self.dh])

    def in_turn(self, forward: Callable[[], Any], consumer: Any) -> Step:
        """Makes a call between a producer of the input and a consumer of the outputs' sum.

        Args:
            forward: `ours` or `torchs`.
            consumer: Reads the output, and the input's gradient.
        """
        if not self.work.residual:
            return super().in_turn(forward, consumer)
        # The consumer reads one output; the gradient of the other one is 0.
        return super().in_turn(lambda: forward()[0], consumer)


def _kept_for_backward(work: Work, device: torch.device) -> list[str]:
    """Writes a line with the bytes per element that autograd keeps, for ours and for torch's functions."""
    ours, torchs = (kept / work.numel for kept in _Competitors(work, device).kept())
    return [f"kept for backward, bytes per element: ours {ours:.4g}, torch {torchs:.4g}"]

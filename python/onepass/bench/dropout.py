"""Dropout in training next to torch's: forward, forward with backward, with a residual.

Competitors: ``ours``; ``torch``, torch.nn.functional's function; ``stream``, a plain loop that moves as many bytes
as the operation has to: x and y forward, dy and dx backward, a residual once (its gradient is dy itself);
``copy``, in forward cases, a plain copy of x past the caches: "theirs/ours" is our share of its bandwidth.
``compile`` is torch's functions under torch.compile. The cases ``forward-bfloat16-beside-float32`` instead time
ours in bfloat16 against ours in float32 (``float32``): elements per second.
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
from onepass.bench.entrants import Entrant, difference
from onepass.bench.harness import OURS, Case, Step
from onepass.bench.probe import copy_probe


@dataclass(frozen=True)
class Work(layers.Work):
    """Describes a dropout of one tensor."""

    p: float = 0.1
    residual: bool = False
    inplace: bool = False
    function: str = "dropout"

    @property
    def tensors_moved(self) -> int:
        """Forward x, y and the residual; backward dy and dx."""
        return 2 + self.residual + 2 * self.backward


# Standard deviations by which the number of kept elements may differ from what is expected.
_SIGMAS = 6
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


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: Where their tensors are.
    """
    return list(_cases(device))


def _cases(device: torch.device) -> Iterator[Case]:
    for work in WORKS:
        yield _case(work, device)
    for p in (0.1, 0.5):
        yield _dtypes_case(p, device)
    for mode in ("train", "eval"):
        yield layers.overhead_case(mode, onepass.nn.Dropout, torch.nn.Dropout, device, requires_grad=True)


class _Competitors(layers.Competitors[Work]):
    heap_tensors: ClassVar[int] = 8
    stands_for: ClassVar[str] = "dropout"

    def __init__(self, work: Work, device: torch.device) -> None:
        super().__init__(work, device)
        self.dy, self.residual = work.tensor(device), work.tensor(device)
        self.leaves += [self.residual] if work.residual else []

    def ours(self) -> Tensor:
        """Calls our function."""
        work = self.work
        more = {"residual": self.residual} if work.residual else {}
        function = getattr(onepass.nn.functional, work.function)
        output: Tensor = function(self.x, work.p, True, work.inplace, **more)
        return output

    def torchs(self) -> Tensor:
        """Calls torch's function, and adds the residual."""
        y: Tensor = getattr(F, self.work.function)(self.x, self.work.p, True, self.work.inplace)
        return y + self.residual if self.work.residual else y

    def theirs(self, entrant: Entrant) -> Callable[[], Tensor] | None:
        """Calls a function with torch's arguments, or a module; fits dropout with nothing added, not in place.

        Args:
            entrant: The implementation.
        """
        work = self.work
        if work.residual or work.inplace or work.function != f"dropout{entrant.dimensions}":
            return None
        if not entrant.is_class:
            return lambda: entrant(self.x, p=work.p, training=True)
        module = entrant(p=work.p).to(self.x.device)
        return lambda: module(self.x)

    def difference(self, forward: Callable[[], Tensor]) -> tuple[str, float]:
        """Compares the output with one of its own mask, and the number of kept elements with what p asks for.

        Args:
            forward: What `theirs` made.
        """
        found = self.results(forward)
        kept = found["output"] != 0
        if self.work.function == "dropout2d":
            kept = kept.any(-1, keepdim=True).any(-2, keepdim=True)
        scale = kept.double() / (1 - self.work.p)
        shares = {"output": difference(found["output"], self.x * scale)}
        if self.dy is not None and "gradient 0" in found:
            shares["gradient"] = difference(found["gradient 0"], self.dy * scale)
        rate = kept.double().mean().item()
        spread = (self.work.p * (1 - self.work.p) / kept.numel()) ** 0.5
        shares["keep rate"] = max(0.0, abs(rate - (1 - self.work.p)) - _SIGMAS * spread) / (1 - self.work.p)
        name = max(shares, key=shares.__getitem__)
        return name, shares[name]


def _case(work: Work, device: torch.device) -> Case:
    def copy() -> dict[str, Step]:
        return {"copy": copy_probe(work.bytes_moved, device)}

    return layers.case_of(
        _Competitors,
        work,
        device,
        notes=partial(_kept_for_backward, work, device) if work.backward else None,
        more=None if work.backward or work.inplace else copy,
    )


def _dtypes_case(p: float, device: torch.device) -> Case:
    half = Work("", _LARGE, p=p, dtype=torch.bfloat16, backward=False)
    full = Work("", _LARGE, p=p, backward=False)

    def setup() -> dict[str, Step]:
        names = {OURS: half, "float32": full}
        return {name: _Competitors(work, device).ours for name, work in names.items()}

    return Case(name=f"forward-bfloat16-beside-float32-p{p:g}", bytes_moved=None, rounds=15, setup=setup)


def _kept_for_backward(work: Work, device: torch.device) -> list[str]:
    """Writes a line with the bytes that autograd keeps: for ours in all, for torch's functions per element."""
    ours, torchs = _Competitors(work, device).kept()
    return [f"kept for backward: ours {ours} bytes in all, torch {torchs / work.numel:.4g} bytes per element"]

"""The package's optimizers next to their plain loops, for what compares the two (bench, parity, tests)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.optim._step.fused import FusedOptimizer

__all__ = ["fused_classes", "plain_class"]


def fused_classes() -> list[type[FusedOptimizer]]:
    """The optimizers that onepass.optim offers, in its order."""
    from onepass import optim

    found = [getattr(optim, name) for name in optim.__all__]
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, FusedOptimizer)]


def plain_class(kind: type[FusedOptimizer]) -> type[Optimizer]:
    """The class that takes the same step tensor by tensor, with ``foreach=False, fused=False``.

    It is torch's class of that name, or, for a rule that torch lacks, our class with every parameter given to its
    loop of torch's operations.
    """
    theirs = getattr(torch.optim, kind.__name__, None)
    return type(kind.__name__, (_Plain, kind), {}) if theirs is None else theirs


class _Plain(FusedOptimizer):
    """Leaves nothing to the kernels."""

    def _settle_precision(self) -> None:
        super()._settle_precision()
        self._asks_kernels = False

    def _why_unfused(self, group: dict[str, Any], param: Tensor) -> str | None:
        return super()._why_unfused(group, param) or "plain loop"

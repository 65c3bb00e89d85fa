"""Sees whether gradients are zeroed between a step and the next backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["ZeroGradWatch"]

# Parameters that are looked at, the smallest ones: some may get no gradient in a step.
_LOOKED_AT = 2


class ZeroGradWatch:
    """Looks at the gradients that are there when a backward pass is about to add to them.

    The hooks of a few small parameters are there only in the steps that are looked at. They run when a gradient
    has been computed and not yet been added, wherever the training calls zero_grad.

    Args:
        optimizer: The optimizer, or None if its steps cannot be seen.
    """

    def __init__(self, optimizer: Optimizer | None) -> None:
        groups = [] if optimizer is None else optimizer.param_groups
        params = [p for group in groups for p in group["params"] if p.requires_grad and p.numel()]
        self._params: list[Tensor] = sorted(params, key=torch.numel)[:_LOOKED_AT]
        self._handles: list[Any] = []
        self._seen: list[Tensor | bool] = []

    def arm(self) -> None:
        """Begins to look, after a step."""
        self.disarm()
        self._seen = []
        for param in self._params:
            if param.requires_grad:
                # torch gives this method no types.
                hooked: Any = param
                self._handles.append(hooked.register_hook(self._look_at(param)))

    def disarm(self) -> None:
        """Stops looking."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _look_at(self, param: Tensor) -> Any:
        def look(_: Tensor) -> None:
            try:
                old = param.grad
                if old is None or not old.numel():
                    self._seen.append(False)
                elif not old.is_sparse:
                    with torch.no_grad():
                        self._seen.append((old != 0).any())
            except Exception:  # a gradient that cannot be looked at is left out; the backward pass goes on
                return

        return look

    def take(self) -> Tensor | None:
        """Stops looking; returns whether no gradient had been zeroed, as a tensor, or None if that is known.

        All of them must be left: a loss of another optimizer may add to these gradients, too, before zero_grad.
        """
        self.disarm()
        seen, self._seen = self._seen, []
        flags = [flag for flag in seen if isinstance(flag, Tensor)]
        if not flags or len(flags) < len(seen):
            return None
        with torch.no_grad():
            return torch.stack([flag.to(flags[0].device) for flag in flags]).all()

"""torch's wrapper around an optimizer's `step`, entered only while a profiler or a hook watches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = ["entered_if_watched"]

# Sees a profiler of this thread; one of all threads registers only with torch.autograd.profiler.
_profiles: Callable[[], bool] = torch._C._autograd._profiler_enabled


def entered_if_watched(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """Calls `step` through torch.optim.Optimizer's wrapper only while a profiler or a hook watches.

    The wrapper runs hooks and opens a range for profilers, which costs 5 us, and 95 where other work has used the
    caches (docs/decisions/tail.md). Otherwise the step is called directly.
    """
    direct = wrapped.__wrapped__  # type: ignore[attr-defined]  # by functools.wraps

    @functools.wraps(direct)
    def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if _is_watched(self):
            result = wrapped(self, *args, **kwargs)
            if torch.compiler.is_compiling():
                return result
        else:
            result = direct(self, *args, **kwargs)
            # Hooks that the step's closure has registered.
            for hook in (*self._optimizer_step_post_hooks.values(), *_global_optimizer_post_hooks.values()):
                hook(self, (self, *args), kwargs)
        observer = self._observer  # type: ignore[attr-defined]  # of TailedOptimizer
        if observer is not None:
            observer(bool(kwargs.get("zero_grad")))
        return result

    # torch.optim.Optimizer leaves a class alone whose step has this mark, which no type declares.
    step.hooked = True  # type: ignore[attr-defined]
    return step


def _is_watched(optimizer: Optimizer) -> bool:
    return bool(
        torch.compiler.is_compiling()
        or _profiles()
        or torch.autograd.profiler._is_profiler_enabled
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )

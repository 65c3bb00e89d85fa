"""torch's wrapper around an optimizer's `step`, entered only where somebody watches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = ["entered_if_watched"]

# A profiler of this thread; one of all threads tells torch.autograd.profiler alone.
_profiles: Callable[[], bool] = torch._C._autograd._profiler_enabled


def entered_if_watched(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """What torch.optim.Optimizer made of `step`: it runs hooks, and opens a range for profilers.

    The range alone takes 5 us, and 95 where other work has used the caches (docs/decisions.md): without a profiler
    and hooks the step is called as it is.
    """
    direct = wrapped.__wrapped__  # type: ignore[attr-defined]  # by functools.wraps

    @functools.wraps(direct)
    def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if _is_watched(self):
            return wrapped(self, *args, **kwargs)
        result = direct(self, *args, **kwargs)
        # Those that the step itself, a closure of it, has registered.
        for hook in (*self._optimizer_step_post_hooks.values(), *_global_optimizer_post_hooks.values()):
            hook(self, (self, *args), kwargs)
        return result

    # torch.optim.Optimizer asks for this mark, which no type knows, and then leaves the class alone.
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

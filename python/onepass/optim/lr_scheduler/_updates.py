"""Counts the updates that an optimizer took, without the steps that were dropped."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from onepass.optim._step.placeholders import are_asked_for
from onepass.optim._step.tailed import TailedOptimizer
from onepass.optim.lr_scheduler._wrapped import stepping


class Updates:
    """Counts the updates that an optimizer took.

    A step that torch.amp.GradScaler drops does not reach most optimizers. Those that drop steps themselves
    (torch's fused classes, ours) are called with `found_inf`; ours also count what skip_nonfinite dropped. Nothing
    waits for a GPU until `total` is read, and then only if a step may have been dropped.

    torch.distributed.checkpoint takes a step with rates and gradients of 0 to make an optimizer's states, which is
    not an update.

    Optimizer and counter know each other by weak references: neither keeps the other alive.

    Args:
        owner: The name of who counts, for errors.
        optimizer: An optimizer of any class whose updates can be seen, or one that wraps such an optimizer.
        before: The number that counting begins with.

    Raises:
        ValueError: The updates cannot be seen.
    """

    def __init__(self, owner: str, optimizer: Any, before: int) -> None:
        inner = counted(owner, optimizer)
        self._optimizer = weakref.ref(inner)
        self.reset(before)
        handle = inner.register_step_post_hook(Hook(self))
        self._stop = weakref.finalize(self, handle.remove)
        self._stop.atexit = False

    def reset(self, before: int) -> None:
        """Goes on counting from a number."""
        self._calls = before
        self._has_counted = False
        self._dropped: Tensor | None = None
        self._skipped_before = self._skipped()

    def count(self, optimizer: Any) -> None:
        """Counts a call of the optimizer's step."""
        if (not self._has_counted or _are_zero(optimizer.param_groups)) and are_asked_for():
            return
        self._has_counted = True
        self._calls += 1
        found = getattr(optimizer, "found_inf", None)
        if isinstance(found, Tensor) and not isinstance(optimizer, TailedOptimizer):
            dropped = (found != 0).sum()
            self._dropped = dropped if self._dropped is None else self._dropped + dropped

    def _skipped(self) -> int:
        optimizer = self._optimizer()
        return optimizer.skipped_steps if isinstance(optimizer, TailedOptimizer) else 0

    @property
    def calls(self) -> int:
        """How often the optimizer was called, dropped steps included."""
        return self._calls

    def total(self) -> int:
        """Returns the count; waits for the GPU if a step on it may have been dropped."""
        dropped = 0 if self._dropped is None else int(self._dropped)
        return self._calls - dropped - (self._skipped() - self._skipped_before)

    def close(self) -> None:
        """Stops counting."""
        self._stop()


def counted(owner: str, optimizer: Any) -> Optimizer:
    """Finds the optimizer whose updates are counted: this one or one that it wraps.

    Raises:
        ValueError: The updates cannot be seen.
    """
    inner = stepping(optimizer)
    if inner is None:
        raise ValueError(
            f"{owner}: optimizer must call step hooks, or wrap one optimizer that does, for its updates to be "
            f"counted, got {type(optimizer).__name__}"
        )
    return inner


class Hook:
    """What an optimizer calls after a step, without keeping the counter alive."""

    def __init__(self, updates: Updates) -> None:
        self._updates = weakref.ref(updates)

    def updates(self) -> Updates | None:
        """Returns the counter if it is still alive."""
        return self._updates()

    def __call__(self, optimizer: Any, *_: Any) -> None:
        updates = self._updates()
        if updates is not None:
            updates.count(optimizer)


def _are_zero(groups: list[dict[str, Any]]) -> bool:
    """Whether all rates are 0: torch.distributed.checkpoint sets them so to make states."""
    return all(_is_zero(group.get("lr", 0)) for group in groups)


def _is_zero(lr: Any) -> bool:
    """Whether a rate is known to be 0; does not wait for a tensor on a GPU."""
    return bool(lr == 0) if not isinstance(lr, Tensor) or lr.device.type == "cpu" else False

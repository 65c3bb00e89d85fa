"""Counts the updates that an optimizer really took."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from onepass.optim._tail import TailedOptimizer


class Updates:
    """The number of an optimizer's successful updates.

    A step that torch.amp.GradScaler drops never reaches an optimizer of the plain kind; one that decides itself
    (torch's fused classes, ours) is called with `found_inf`, and ours also counts what skip_nonfinite dropped.
    Nothing waits for a GPU until `total` is read, and then only if a step may have been dropped.

    Args:
        optimizer: Of any class.
        before: Updates that are counted as taken before.
    """

    def __init__(self, optimizer: Optimizer, before: int) -> None:
        self._optimizer = optimizer
        self.reset(before)
        self._handle = optimizer.register_step_post_hook(self._count)

    def reset(self, before: int) -> None:
        """Counts on from a number."""
        self._calls = before
        self._dropped: Tensor | None = None
        self._skipped_before = self._skipped()

    def _count(self, *_: Any) -> None:
        self._calls += 1
        found = getattr(self._optimizer, "found_inf", None)
        if isinstance(found, Tensor) and not isinstance(self._optimizer, TailedOptimizer):
            dropped = (found != 0).sum()
            self._dropped = dropped if self._dropped is None else self._dropped + dropped

    def _skipped(self) -> int:
        return self._optimizer.skipped_steps if isinstance(self._optimizer, TailedOptimizer) else 0

    @property
    def calls(self) -> int:
        """How often the optimizer was called, dropped steps included."""
        return self._calls

    def total(self) -> int:
        """The count; waits for the GPU if a step on it may have been dropped."""
        dropped = 0 if self._dropped is None else int(self._dropped)
        return self._calls - dropped - (self._skipped() - self._skipped_before)

    def close(self) -> None:
        """Stops counting."""
        self._handle.remove()

"""The product of schedulers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs
from torch.optim.lr_scheduler import LRScheduler

from onepass.optim.lr_scheduler._arguments import check_optimizer
from onepass.optim.lr_scheduler._combined import Combined
from onepass.optim.lr_scheduler._cycles import Cycle
from onepass.optim.lr_scheduler._memory import Memory
from onepass.optim.lr_scheduler._track import Track

# The parts applied their factors one after the other, the whole applies their product: rounding may differ by
# this.
_ROUNDING = 1e-9


class _Product(Track):
    """Writes the rates of a chain: outer lr_at(step), where outer is 1 until others change the rate."""

    def __init__(self, chain: ChainedScheduler, groups: int) -> None:
        super().__init__("lr", [], [1.0] * groups)
        self._parts = chain._schedulers

    def at(self, step: int) -> Any:
        """Returns the rates of the groups."""
        return _rates_at(self._parts, step)


class ChainedScheduler(Combined, theirs.ChainedScheduler):
    """Multiplies the factors of several schedulers: lr = lr_0 (lr_1 / base_lr_1) (lr_2 / base_lr_2) ...

    Args:
        schedulers: Schedulers of this module or of torch, at least one. One that sets the rate by itself
            (`CyclicLR`, `OneCycleLR`) must be the first. If one of them is torch's, there is no product: they are
            called in turn, as torch's class does, and what needs a closed form raises.
        optimizer: The optimizer that they share; None for that of the first.
        follow: As for `FunctionLR`; the schedulers themselves count nothing.

    Raises:
        ValueError: A scheduler belongs to another optimizer, or is at another step.
        TypeError: One of them is not a scheduler, or has no closed form where one is needed.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import ChainedScheduler, ExponentialLR, StepLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedulers = [ExponentialLR(optimizer, 0.5), StepLR(optimizer, 2, 0.25)]
        >>> ChainedScheduler(schedulers).preview(4)
        [[1.0], [0.5], [0.0625], [0.03125]]

    Differs from torch: the order does not matter, and a cosine with restarts does not undo the others
    (pytorch/pytorch#129565). If a scheduler has an eta_min, the rates are multiplied; torch applies a recursion
    that holds for one scheduler.

    Source: torch.optim.lr_scheduler.ChainedScheduler.
    """

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None, *, follow: str = "calls"
    ) -> None:
        if optimizer is not None:
            check_optimizer("ChainedScheduler", optimizer)
        self._check_parts(schedulers, optimizer)
        first = schedulers[0].last_epoch
        for i, part in enumerate(schedulers):
            if i and isinstance(part, Cycle):
                raise ValueError(
                    f"ChainedScheduler: schedulers[{i}] must be the first, because it sets the rate by itself, "
                    f"got {type(part).__name__} at {i}"
                )
            if part.last_epoch != first and self._without_formula is None:
                raise ValueError(
                    f"ChainedScheduler: schedulers[{i}] must have last_epoch {first} like the first, got "
                    f"{part.last_epoch}"
                )
        self._chains = self._without_formula is None and all(part._chains for part in schedulers)  # type: ignore[misc,attr-defined]
        with self._attached(schedulers[0].optimizer, first - 1 if first else -1, follow):
            self._take_parts(schedulers)
            self._begin(first - 1)

    def _own_step(self, part: int, step: int) -> int:
        return step

    def _first_write(self) -> None:
        if self._without_formula is not None:
            return  # the parts have
        if not self._chains:
            self._restart(self.last_epoch)
            return
        self._memories, self._tracks = {}, None
        wanted, memory = self._lr_at(self.last_epoch), self._all_tracks()[0].memory
        assert memory is not None
        # The groups hold what the parts have made of what others did before.
        memory.factors = [*wanted]
        memory.lasts = [
            float(now) if math.isclose(float(now), lr, rel_tol=_ROUNDING) else lr
            for now, lr in zip(self.get_last_lr(), wanted, strict=True)
        ]
        self._write(self.last_epoch)

    def _begin_parts(self) -> None:
        for part in self._schedulers:
            part._initial_step()

    def _step_parts(self, step: int) -> None:
        for part in self._schedulers:
            part.step()

    def _write(self, step: int) -> None:
        super()._write(step)
        if self._without_formula is None:
            track = self._all_tracks()[0]
            track.write(self.optimizer.param_groups, track.at(step))
            self._write_others(step, restart=False)

    def _restart(self, step: int) -> None:
        super()._restart(step)
        self._write_others(step, restart=True)

    def _write_others(self, step: int, restart: bool) -> None:
        for part in self._schedulers:
            part._write_others(step, restart)

    def _lr_at(self, step: int) -> list[float]:
        return _rates_at(self._schedulers, step)

    def _make_tracks(self) -> list[Track]:
        return [_Product(self, len(self.base_lrs))]

    def _attach(self, track: Track) -> None:
        memory = self._memories.get("lr")
        if memory is None:
            memory = self._memories["lr"] = Memory(self.base_lrs)
        elif len(memory.lasts) < len(self.base_lrs):
            memory.grow(track.ends, self.base_lrs)
        track.memory = memory


def _rates_at(schedulers: Sequence[Any], step: int) -> list[float]:
    lrs: list[float] = schedulers[0].lr_at(step)
    for part in schedulers[1:]:
        bases = zip(lrs, part.lr_at(step), part.base_lrs, strict=True)
        lrs = [lr * (other / base) if base else 0.0 for lr, other, base in bases]
    return lrs

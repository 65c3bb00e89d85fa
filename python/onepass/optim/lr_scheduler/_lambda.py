"""torch's scheduler over any function of the step."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs

from onepass._arguments import told
from onepass.optim import schedules
from onepass.optim.lr_scheduler._arguments import Setting, check_optimizer, is_list
from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._track import Track
from onepass.optim.lr_scheduler._undo import undone_on_error


class LambdaLR(FunctionLR, theirs.LambdaLR):
    """Scales the learning rate by a function of the step: lr = base_lr lr_lambda(t).

    The state_dict holds no functions; of callable objects it holds the attributes.

    Args:
        optimizer: As for `FunctionLR`.
        lr_lambda: A function of the step, for instance a schedule of `onepass.optim.schedules`, or a list with one
            for each group.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, lr_lambda is not a function, or what it returns is not a number.
        ValueError: A list has another number of functions than there are groups.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import LambdaLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> LambdaLR(optimizer, lambda step: 1 / (1 + step)).preview(2)
        [[1.0], [0.5]]

    Differs from torch: `follow`; as a part of our `SequentialLR` it has a closed form.

    Source: torch.optim.lr_scheduler.LambdaLR.
    """

    _chains = False
    lr_lambdas = Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        check_optimizer("LambdaLR", optimizer)
        groups = len(optimizer.param_groups)
        self._for_all = not is_list(lr_lambda)
        lambdas: list[Any] = [lr_lambda] * groups if self._for_all else list(lr_lambda)  # type: ignore[arg-type]
        if len(lambdas) != groups:
            raise ValueError(f"LambdaLR: lr_lambda must be one for each of {groups} groups, got {len(lambdas)}")
        for i, function in enumerate(lambdas):
            if not callable(function) or isinstance(function, type):
                raise TypeError(f"LambdaLR: lr_lambda[{i}] must be a function, got {told(function)}")
        self.lr_lambdas = lambdas
        super().__init__(optimizer, last_epoch, follow=follow)

    def _make_tracks(self) -> list[Track]:
        shapes = self.lr_lambdas[0] if self._for_all and self.lr_lambdas else self.lr_lambdas
        return [Track("lr", shapes, self.base_lrs)]

    def _take_new_groups(self) -> None:
        groups = len(self.optimizer.param_groups)
        missing = groups - len(self.lr_lambdas)
        if missing and not self._for_all:
            raise ValueError(f"LambdaLR: lr_lambda was given for {len(self.lr_lambdas)} groups, got {groups} now")
        super()._take_new_groups()
        self.lr_lambdas = self.lr_lambdas + self.lr_lambdas[:1] * missing

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as torch's class does: without functions, with the attributes of callable objects."""
        kept = [None if _is_plain(function) else function.__dict__.copy() for function in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state as `FunctionLR` does, and sets the attributes of callable objects."""
        objects = [function for function in self.lr_lambdas if not _is_plain(function)]
        with undone_on_error(self.optimizer, objects):
            super().load_state_dict(state_dict)

    def _take_state(self, state_dict: dict[str, Any]) -> None:
        for function, kept in zip(self.lr_lambdas, state_dict.get("lr_lambdas", ()), strict=False):
            if kept is not None and not _is_plain(function):
                function.__dict__.update(kept)
        super()._take_state(state_dict)


def _is_plain(function: Any) -> bool:
    """Whether there is no attribute to keep: in a function, and in a schedule of ours, which does not change."""
    return isinstance(function, (types.FunctionType, schedules.Schedule)) or not hasattr(function, "__dict__")

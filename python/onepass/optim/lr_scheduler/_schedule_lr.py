"""Schedulers that apply any schedule to any field of the groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from onepass._arguments import renamed, told
from onepass.optim import schedules
from onepass.optim.lr_scheduler._arguments import check_optimizer, is_list, plain
from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._track import Shape, Track, get, own_tensor, place

# One shape or its text, or a list with one for each group, where None leaves a group alone.
Given = Callable[[int], float] | str | list[Callable[[int], float] | str | None]


class ScheduleLR(FunctionLR):
    """Applies schedules to the learning rate and to other fields: value = initial value f(step).

    The group keeps the initial value of a field, as ``initial_weight_decay`` for instance, next to torch's
    ``initial_lr``. Every field chains like the rate: what others change is scaled.

    Args:
        optimizer: As for `FunctionLR`.
        schedule: f for the learning rate: a schedule of `onepass.optim.schedules`, its text, or any function of
            the step; or a list with one for each group.
        last_epoch: As for `FunctionLR`.
        fields: f for other fields of the groups, each given as `schedule` is, by the name of the field, such as
            ``weight_decay``, ``momentum`` or ``betas[0]``. None in a list leaves that group alone.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, a field is not a number, or `schedule` or an entry of `fields` is not
            a schedule.
        ValueError: A group has no such field, a text is not a schedule, or a list has another number of entries
            than there are groups.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import AdamW
        >>> from onepass.optim.lr_scheduler import ScheduleLR
        >>> optimizer = AdamW([torch.zeros(1, requires_grad=True)], lr=1.0, weight_decay=0.5)
        >>> scheduler = ScheduleLR(optimizer, "warmup(2) >> linear(4)", fields={"weight_decay": "linear(2)"})
        >>> scheduler.preview(4)
        [[0.0], [0.5], [1.0], [0.75]]
        >>> scheduler.value_at("weight_decay", 1)
        [0.25]

    Differs from torch: torch has no such class.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Given,
        last_epoch: int = -1,
        *,
        fields: Mapping[str, Given] | None = None,
        follow: str = "calls",
    ) -> None:
        check_optimizer(type(self).__name__, optimizer)
        groups = optimizer.param_groups
        self._shapes = {"lr": _shapes("schedule", schedule, len(groups))}
        if not callable(self._shapes["lr"]) and None in self._shapes["lr"]:
            raise ValueError("ScheduleLR: schedule must have a schedule for each group, got None")
        if fields is not None and not isinstance(fields, Mapping):
            raise TypeError(f"{type(self).__name__}: fields must be a dict or None, got {told(fields)}")
        for field, given in (fields or {}).items():
            if field == "lr":
                raise ValueError("ScheduleLR: fields must not have lr, which is schedule's")
            self._shapes[field] = _shapes(f"fields[{field!r}]", given, len(groups))
            for i, group in enumerate(groups):
                _check_field(field, i, group)
        with self._attached(optimizer, last_epoch, follow):
            self._others: dict[str, list[float]] = {field: [] for field in fields or {}}
            self._note_others()
            self._begin(last_epoch)

    def _note_others(self) -> None:
        for field, values in self._others.items():
            for i, group in enumerate(self.optimizer.param_groups[len(values) :], len(values)):
                own_tensor(self.optimizer.param_groups, i, place(field)[0])
                current = get(group, field)
                kept = current.clone() if isinstance(current, Tensor) else plain(current)
                values.append(float(group.setdefault(_initial(field), kept)))

    def _take_new_groups(self) -> None:
        known = len(self.base_lrs)
        if any(not callable(shapes) for shapes in self._shapes.values()):
            raise ValueError(
                f"ScheduleLR: schedules were given for {known} groups, got {len(self.optimizer.param_groups)} now"
            )
        super()._take_new_groups()
        self._note_others()

    def _make_tracks(self) -> list[Track]:
        ends: dict[str, list[float]] = {"lr": self.base_lrs, **self._others}
        return [Track(field, shapes, ends[field]) for field, shapes in self._shapes.items()]

    def value_at(self, field: str, step: int) -> list[float | None]:
        """Returns the values of a field in all groups at a step, None for a group left alone; changes nothing.

        Args:
            field: A name as in `fields`, or "lr".
            step: The number of steps before it, at least 0.

        Raises:
            ValueError: The scheduler does not write that field.
        """
        names = list(self._shapes)
        if field not in names:
            raise ValueError(f"ScheduleLR: field must be one of {', '.join(names)}, got {told(field)}")
        return self._all_tracks()[names.index(field)].values(step)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as `FunctionLR` does, with the other fields' initial values, without the schedules."""
        return {**super().state_dict(), "base_values": {field: list(v) for field, v in self._others.items()}}

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        others = state_dict.get("base_values", self._others)
        groups = len(self.optimizer.param_groups)
        if set(others) != set(self._others) or any(len(values) != groups for values in others.values()):
            raise ValueError(
                f"ScheduleLR: base_values of the state_dict must have {sorted(self._others)} for {groups} groups, "
                f"got { {field: len(values) for field, values in others.items()} }"
            )
        super()._check_state(state_dict)

    def _take_state(self, state_dict: dict[str, Any]) -> None:
        others = state_dict.get("base_values", self._others)
        self._others = {field: [float(v) for v in others[field]] for field in self._others}
        super()._take_state(state_dict)


class WarmupCosineLR(ScheduleLR):
    """Warms up along a straight line, then lowers the rate along a cosine to a floor, where it stays.

    lr = base_lr f(step), f = ``warmup(warmup_steps, warmup_start) >> cosine(total_steps - warmup_steps, floor)``.

    Args:
        optimizer: As for `FunctionLR`.
        warmup_steps: Steps of the warm-up, at least 0.
        total_steps: Steps of the warm-up and the cosine together, above warmup_steps.
        floor: The last factor, at least 0.
        warmup_start: The first factor, from 0 to 1.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import WarmupCosineLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = WarmupCosineLR(optimizer, warmup_steps=2, total_steps=4, floor=0.5)
        >>> [round(lr, 3) for lrs in scheduler.preview(6) for lr in lrs]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]

    Differs from torch: torch has no such class.

    Source: Loshchilov and Hutter 2017, equation 5 (the cosine).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        floor: float = 0.0,
        warmup_start: float = 0.0,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        for argument, value in (("warmup_steps", warmup_steps), ("total_steps", total_steps)):
            if not isinstance(value, Real):
                raise TypeError(f"WarmupCosineLR: {argument} must be a number, got {told(value)}")
        if total_steps <= warmup_steps:
            raise ValueError(
                f"WarmupCosineLR: total_steps must be above warmup_steps {warmup_steps}, got {total_steps}"
            )
        names = {"warmup: steps": "warmup_steps", "warmup: start": "warmup_start", "cosine: steps": "total_steps"}
        with renamed("WarmupCosineLR", {**names, "cosine: floor": "floor"}):
            cosine = schedules.cosine(total_steps - warmup_steps, floor)
            shape = schedules.warmup(warmup_steps, warmup_start) >> cosine
        super().__init__(optimizer, shape, last_epoch, follow=follow)


class WarmupStableDecayLR(ScheduleLR):
    """Warms up, keeps the rate, and lowers it to a floor: lr = base_lr f(step), f = `onepass.optim.schedules.wsd`.

    Args:
        optimizer: As for `FunctionLR`.
        warmup_steps: Steps of the warm-up, at least 0.
        stable_steps: Steps at the full rate, at least 0.
        decay_steps: Steps of the decay, above 0.
        floor: The last factor, at least 0.
        shape: The shape of the decay: "linear", "cosine" or "sqrt".
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import WarmupStableDecayLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> WarmupStableDecayLR(optimizer, warmup_steps=2, stable_steps=2, decay_steps=2).preview(7)
        [[0.0], [0.5], [1.0], [1.0], [1.0], [0.5], [0.0]]

    Differs from torch: torch has no such class.

    Source: Hu et al. 2024 (MiniCPM), section 4.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        stable_steps: int,
        decay_steps: int,
        floor: float = 0.0,
        shape: str = "linear",
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        with renamed("WarmupStableDecayLR", {}):
            wsd = schedules.wsd(warmup_steps, stable_steps, decay_steps, floor, shape)
        super().__init__(optimizer, wsd, last_epoch, follow=follow)


def _shapes(argument: str, given: Any, groups: int) -> Any:
    if not is_list(given):
        return _shape(argument, given)
    if len(given) != groups:
        raise ValueError(
            f"ScheduleLR: {argument} must have one entry for each of {groups} groups, got {len(given)}"
        )
    return [None if one is None else _shape(f"{argument}[{i}]", one) for i, one in enumerate(given)]


def _shape(argument: str, given: Any) -> Shape:
    if isinstance(given, str):
        return schedules.parse(given)
    if not callable(given) or isinstance(given, type):
        raise TypeError(f"ScheduleLR: {argument} must be a schedule, its text or a function, got {told(given)}")
    return given  # type: ignore[no-any-return]


def _check_field(field: str, i: int, group: dict[str, Any]) -> None:
    key, index = place(field)
    if key not in group or (index is not None and index >= len(group[key])):
        known = ", ".join(name for name in group if name != "params")
        raise ValueError(f"ScheduleLR: fields must be of param_groups[{i}], which has {known}, got {told(field)}")
    value = get(group, field)
    if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
        raise TypeError(
            f"ScheduleLR: fields must be numbers such as betas[0], got {told(field)}, which is {told(value)}"
        )


def _initial(field: str) -> str:
    key, index = place(field)
    return f"initial_{key}" if index is None else f"initial_{key}_{index}"

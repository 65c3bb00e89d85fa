"""Schedulers over any schedule, and any field of the groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from onepass.optim import schedules
from onepass.optim.lr_scheduler._arguments import check_optimizer, is_list, plain
from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._track import Shape, Track, get, own_tensor, place

# Also one for each group, None leaving a group alone; as text it is parsed.
Given = Callable[[int], float] | str | list[Callable[[int], float] | str | None]


class ScheduleLR(FunctionLR):
    """value = initial value * f(step), for the learning rate and for any other field.

    Args:
        optimizer: As for `FunctionLR`.
        schedule: f of the learning rate: a schedule of `onepass.optim.schedules`, its text, or any function of the
            step; or a list with one for each group.
        last_epoch: As for `FunctionLR`.
        fields: f of other fields of the groups, as `schedule` is; a name such as ``weight_decay``, ``momentum`` or
            ``betas[0]``. None in a list leaves that group alone.
        follow: As for `FunctionLR`.

    Raises:
        ValueError: A group has no such field, or a list has another number of entries than there are groups.
        TypeError: A field is no number, or something is no schedule.

    A field's initial value is kept in the group, as ``initial_weight_decay``, next to torch's ``initial_lr``.
    Every field chains like the rate: what others change is scaled.
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
        """The values of another field at a step, None for a group that is left alone; changes nothing.

        Args:
            field: A name as in `fields`, or "lr".
            step: At least 0.
        """
        names = list(self._shapes)
        if field not in names:
            raise ValueError(f"ScheduleLR: field must be one of {', '.join(names)}, got {field!r}")
        return self._all_tracks()[names.index(field)].values(step)

    def state_dict(self) -> dict[str, Any]:
        """As `FunctionLR`'s, with the initial values of the other fields. Schedules are code, not state."""
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
    """Linear warm-up, then a cosine down to a floor, where the rate stays.

    Args:
        optimizer: As for `FunctionLR`.
        warmup_steps: Steps of the warm-up, at least 0.
        total_steps: Steps of the whole, above warmup_steps.
        floor: The last factor, at least 0.
        warmup_start: The first factor, from 0 to 1.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        ValueError: A number is out of range.
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
        if total_steps <= warmup_steps:
            raise ValueError(
                f"WarmupCosineLR: total_steps must be above warmup_steps {warmup_steps}, got {total_steps}"
            )
        shape = schedules.warmup(warmup_steps, warmup_start) >> schedules.cosine(total_steps - warmup_steps, floor)
        super().__init__(optimizer, shape, last_epoch, follow=follow)


class WarmupStableDecayLR(ScheduleLR):
    """Warm-up, stable, decay (`schedules.wsd`).

    Args:
        optimizer: As for `FunctionLR`.
        warmup_steps: Steps of the warm-up, at least 0.
        stable_steps: Steps at the full rate, at least 0.
        decay_steps: Steps of the decay, above 0.
        floor: The last factor, at least 0.
        shape: Of the decay: "linear", "cosine" or "sqrt".
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        ValueError: A number is out of range.
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
        raise TypeError(f"ScheduleLR: {argument} must be a schedule, its text or a function, got {given!r}")
    return given  # type: ignore[no-any-return]


def _check_field(field: str, i: int, group: dict[str, Any]) -> None:
    key, index = place(field)
    if key not in group or (index is not None and index >= len(group[key])):
        known = ", ".join(name for name in group if name != "params")
        raise ValueError(f"ScheduleLR: fields must be of param_groups[{i}], which has {known}, got {field!r}")
    value = get(group, field)
    if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
        raise TypeError(f"ScheduleLR: fields must be numbers such as betas[0], got {field!r}, which is {value!r}")


def _initial(field: str) -> str:
    key, index = place(field)
    return f"initial_{key}" if index is None else f"initial_{key}_{index}"

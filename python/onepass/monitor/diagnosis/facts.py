"""What the rules see of a history: columns with one number a step, whatever is missing as nan."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onepass.monitor.diagnosis.finding import Evidence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["FEW", "Facts", "Recorded", "finite", "median_of", "smoothed"]

# Fewer steps than these show a start, no course.
FEW = 40
# Modules whose channels or units share their own statistics of the batch.
_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "InstanceNorm")


class Recorded(Protocol):
    """What a diagnosis needs of a `History`."""

    run: dict[str, Any]
    events: list[dict[str, Any]]

    @property
    def steps(self) -> Mapping[str, NDArray[Any]]:
        """Columns of the steps."""

    @property
    def layers(self) -> Mapping[str, NDArray[Any]]:
        """Columns of the layers."""

    @property
    def epochs(self) -> Mapping[str, NDArray[Any]]:
        """Columns of the epochs."""


class Facts:
    """Reads a history for the rules.

    Args:
        history: A `History`, whole or broken off.
    """

    def __init__(self, history: Recorded) -> None:
        self.run = history.run
        self.events = history.events
        self._steps, self._layers, self._epochs = history.steps, history.layers, history.epochs
        first = next(iter(self._steps.values()), np.empty(0))
        self.count = len(first)
        """The number of recorded steps."""
        self.step = self._steps.get("step", np.arange(1, self.count + 1))

    @property
    def steps_taken(self) -> int:
        """The number of the last recorded step; more than are recorded where a monitor records every tenth."""
        return max(self.count, int(self.step[-1])) if self.count else 0

    def column(self, name: str) -> Array:
        """Returns a column of the steps that has one number a step; nan where nothing is recorded."""
        values = self._steps.get(name)
        if values is None or values.dtype == object or values.ndim != 1:
            return np.full(self.count, np.nan)
        return values.astype(np.float64)

    def groups(self, name: str) -> Array:
        """Returns a column of the steps that has a number for each param group: (steps, groups)."""
        values = self._steps.get(name)
        if values is None or values.dtype == object:
            return np.full((self.count, 1), np.nan)
        return values.reshape(self.count, -1).astype(np.float64)

    def epoch_column(self, name: str) -> Array:
        """Returns a column of the epochs; nan where nothing is recorded."""
        values = self._epochs.get(name)
        rows = len(next(iter(self._epochs.values()), np.empty(0)))
        if values is None or values.dtype == object or values.ndim != 1:
            return np.full(rows, np.nan)
        return values.astype(np.float64)

    def _together(self, name: str) -> Array:
        """The norm over all param groups; nan where no group has one."""
        values = self.groups(name)
        total = np.sqrt(np.nansum(np.square(values), axis=1))
        return np.where(np.isnan(values).all(axis=1), np.nan, total)

    @cached_property
    def loss(self) -> Array:
        """The loss of each step."""
        return self.column("loss")

    @cached_property
    def lr(self) -> Array:
        """The largest rate of a param group, for each step."""
        values = self.groups("lr")
        known = np.where(np.isnan(values), -np.inf, values).max(axis=1, initial=-np.inf)
        return np.where(np.isfinite(known), known, np.nan)

    @property
    def has_loss(self) -> bool:
        """Whether losses of steps are recorded, finite or not."""
        return self.count > 0 and "loss" in self._steps

    @property
    def largest_lr(self) -> float:
        """The largest rate of the run; nan if none is recorded."""
        known = finite(self.lr)
        return float(known.max()) if len(known) else float("nan")

    @cached_property
    def grad_norm(self) -> Array:
        """The norm of all gradients of each step."""
        return self._together("grad_norm")

    @cached_property
    def param_norm(self) -> Array:
        """The norm of all parameters after each step."""
        return self._together("param_norm")

    @cached_property
    def update_ratio(self) -> Array:
        """The norm of the update over that of the parameters, of each step; else the median of the layers'."""
        ratio = self._together("update_norm") / np.where(self.param_norm > 0, self.param_norm, np.nan)
        if np.isnan(ratio).all() and "update_ratio" in self._layers:
            for step in np.unique(self._layers["step"]):
                values = finite(self._layers["update_ratio"][self._layers["step"] == step].astype(np.float64))
                if len(values):
                    ratio[self.step == step] = np.median(values)
        return ratio

    @cached_property
    def lost_share(self) -> Array:
        """The share of the parameters whose update was rounded to nothing, of each step."""
        lost = self.groups("lost_updates")
        total = sum(float(group.get("parameters", 0)) for group in self.optimizer_groups)
        if not total:
            return np.full(self.count, np.nan)
        return np.where(np.isnan(lost).all(axis=1), np.nan, np.nansum(lost, axis=1) / total)

    @property
    def optimizer(self) -> str:
        """The class of the optimizer."""
        return str(_dict(self.run.get("optimizer")).get("class", "optimizer"))

    @property
    def optimizer_groups(self) -> list[dict[str, Any]]:
        """The param groups as they were at the start."""
        groups = _dict(self.run.get("optimizer")).get("groups")
        return [_dict(group) for group in groups] if isinstance(groups, list) else []

    @property
    def is_ours(self) -> bool:
        """Whether the optimizer measured its own steps, as those of `onepass.optim` do."""
        return not np.isnan(self.groups("lost_updates")).all()

    @property
    def base_lr(self) -> float:
        """The rate the run was set to: the largest that a step had, else that of the first group."""
        known = self.lr[self.lr > 0]
        if len(known):
            return float(known.max())
        rates = [group["lr"] for group in self.optimizer_groups if isinstance(group.get("lr"), (int, float))]
        return float(rates[0]) if rates else 1e-3

    @property
    def is_adaptive(self) -> bool:
        """Whether the optimizer scales each element by its own history, as Adam does."""
        return any(isinstance(group.get("betas"), (list, tuple)) for group in self.optimizer_groups)

    @property
    def momentum(self) -> float:
        """The momentum of the first group of SGD; 0 for others."""
        for group in self.optimizer_groups:
            if isinstance(group.get("momentum"), (int, float)):
                return float(group["momentum"])
        return 0.0

    @cached_property
    def types(self) -> dict[str, str]:
        """The class of each layer by its name, in the model's order."""
        layers = _dict(self.run.get("model")).get("layers")
        found = {} if not isinstance(layers, list) else {str(one["name"]): str(one["type"]) for one in layers}
        if not found and "layer" in self._layers:
            kinds = self._layers.get("type", np.full(len(self._layers["layer"]), "", dtype=object))
            found = {str(name): str(kind) for name, kind in zip(self._layers["layer"], kinds, strict=True)}
        return found

    def layer_settings(self, name: str) -> dict[str, Any]:
        """Returns what the run's header says of a layer."""
        layers = _dict(self.run.get("model")).get("layers")
        return next((one for one in layers or [] if one.get("name") == name), {})

    @property
    def norms(self) -> list[str]:
        """The names of the batch norms."""
        return [name for name, kind in self.types.items() if kind.startswith(_NORMS)]

    def has_layer(self, *kinds: str) -> bool:
        """Says whether a layer's class has one of these in its name."""
        return any(one in kind for kind in self.types.values() for one in kinds)

    def layer(self, name: str, field: str) -> tuple[Array, Array]:
        """Returns the steps at which a number of a layer was recorded, and the numbers."""
        if field not in self._layers or self._layers[field].dtype == object:
            return np.empty(0), np.empty(0)
        rows = (self._layers["layer"] == name) & ~np.isnan(self._layers[field].astype(np.float64))
        return self._layers["step"][rows].astype(np.float64), self._layers[field][rows].astype(np.float64)

    def layers_with(self, field: str) -> list[str]:
        """Returns the layers for which a number was recorded, in the model's order."""
        if field not in self._layers or self._layers[field].dtype == object:
            return []
        known = ~np.isnan(self._layers[field].astype(np.float64))
        names = set(self._layers["layer"][known].tolist())
        return [name for name in self.types if name in names] or sorted(names)

    @cached_property
    def first_loss(self) -> float:
        """The loss of the first step, which no update has changed; nan if there is none."""
        return _number(self.loss[0] if self.count else np.nan)

    @cached_property
    def last_loss(self) -> float:
        """The median loss of the last tenth of the steps, at most 50 of them."""
        return median_of(self.loss[-min(50, max(1, self.count // 10)) :])

    @cached_property
    def train_accuracy(self) -> float:
        """The last accuracy on the data to train on; of the last steps, if epochs do not have it; else nan."""
        known = finite(self.epoch_column("train_accuracy"))
        if len(known):
            return float(known[-1])
        return median_of(self.column("accuracy")[-min(50, max(1, self.count // 10)) :])

    @cached_property
    def batch(self) -> float:
        """The usual number of examples of a step; nan if it is not recorded."""
        return median_of(self.column("batch"))

    @cached_property
    def course(self) -> Array:
        """The medians of the loss in the eighths of the run."""
        return smoothed(self.loss, max(1, self.count // 8)) if self.count >= 8 else self.loss

    @cached_property
    def early_ratio(self) -> float:
        """The largest update ratio of the first 10 steps; nan if none is recorded."""
        known = finite(self.update_ratio[:10])
        return _number(known.max() if len(known) else np.nan)

    @property
    def has_learned(self) -> bool:
        """Whether the loss has fallen far: what generalises and is calibrated is a question only then."""
        return self.last_loss < 0.5 * self.first_loss or self.train_accuracy >= 0.8

    @property
    def died(self) -> dict[str, float]:
        """The layers of whose units few were dead in the first steps and most are later, and that later share."""
        made = {}
        for name in self.layers_with("dead_units"):
            steps, values = self.layer(name, "dead_units")
            later = median_of(values[len(values) // 2 :])
            if steps[0] <= 10 and values[0] < 0.3 and later > 0.5:
                made[name] = later
        return made

    def evidence_of_death(self) -> list[Evidence]:
        """Says which units have died, if any."""
        died = self.died
        if not died:
            return []
        worst = max(died, key=lambda name: died[name])
        text = f"{died[worst]:.0%} of the units of layer {worst} have died since the first steps"
        return [Evidence(text, {"dead_units": died[worst]}, layers=tuple(died))]

    @cached_property
    def rise(self) -> float:
        """The largest ratio of an eighth's loss to the least one before it; 1 if the course falls all the way."""
        least = np.minimum.accumulate(self.course)
        ratios = finite(self.course[1:] / np.where(least[:-1] > 0, least[:-1], np.nan))
        return max(1.0, float(ratios.max())) if len(ratios) else 1.0

    @property
    def has_damaged_itself(self) -> bool:
        """Whether early steps were so large that what follows may be their damage."""
        return self.early_ratio > 0.1

    @property
    def is_learning_finished(self) -> bool:
        """Whether nearly nothing is left to learn of the data to train on."""
        return self.train_accuracy >= 0.97 or self.last_loss < 0.05 * self.first_loss

    def window(self, share: float = 0.02, least: int = 5) -> int:
        """Returns the number of steps that a smoothed loss is the median of."""
        return max(1, min(max(least, int(share * self.count)), self.count // 4))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    """A float of numpy: dividing it by 0 is no error."""
    number: float = np.float64(value)
    return number


def finite(values: Array) -> Array:
    """Returns the finite ones of some numbers."""
    return values[np.isfinite(values)]


def median_of(values: Array) -> float:
    """Returns the median of the finite ones; nan if there is none. A division of it by 0 is no error."""
    known = finite(values)
    return _number(np.median(known) if len(known) else np.nan)


def smoothed(values: Array, window: int) -> Array:
    """Returns the medians of consecutive windows that do not overlap; nan for a window without a finite number."""
    count = max(1, len(values) // max(1, window))
    return np.array([median_of(part) for part in np.array_split(values, count)])

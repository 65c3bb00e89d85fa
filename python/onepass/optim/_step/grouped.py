"""Param groups, their checks, and the exchange of checkpoints with torch.optim."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass._arguments import as_flag, listed, told
from onepass.optim._lists.arguments import number, plain_number, plain_pair
from onepass.optim._step.codes import stored_dtype
from onepass.optim._step.placeholders import all_exact, is_unbegun
from onepass.optim._step.precision import DEFAULTS as PRECISION
from onepass.optim._step.precision import (
    LOW_STATES,
    check_concerns,
    check_dtypes,
    check_precision,
    drawn_seed,
    is_half,
    loaded_state_dtype,
    low_dtype,
    low_name,
    mode_of,
    option,
    state_dtype_of,
)
from onepass.optim._step.stateful import StatefulOptimizer
from onepass.optim._step.tailed import average_dtype
from onepass.optim._step.turns import in_turn

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

# Flags that choose one of torch's implementations. Groups keep them as torch's do, for checkpoints and for
# programs that read them; only differentiable changes what a step does here.
IMPLEMENTATION_FLAGS = {"foreach": None, "fused": None, "differentiable": False}
# Further options that are true or false.
_FLAGS = IMPLEMENTATION_FLAGS.keys() | {"amsgrad", "capturable", "decoupled_weight_decay", "maximize", "nesterov"}


class GroupedOptimizer(StatefulOptimizer):
    """The param groups of an optimizer: given, added later, or from a checkpoint.

    Subclasses say which options their groups have (`_check_group`).
    """

    # Options that groups of a checkpoint have, however old the torch is that made it.
    _saved_options: ClassVar[tuple[str, ...]] = ()
    # Options that are numbers, and those that are pairs of them.
    _numbers: ClassVar[tuple[str, ...]] = ()
    _pairs: ClassVar[tuple[str, ...]] = ()
    # Options of which a checkpoint that lacks them may have meant the other value.
    _told_options: ClassVar[tuple[str, ...]] = ()

    # The options of low precision with which each group was made, or copied.
    _made: list[tuple[Any, ...]]

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._make_plain(defaults)
        self._made = []
        if isinstance(params, (str, bytes)) or not isinstance(params, Iterable):
            raise TypeError(
                f"{type(self).__name__}: params must be an iterable of tensors or dicts, got {told(params)}"
            )
        # Skips torch's class of the same name, which comes next: it would check and set its own options.
        Optimizer.__init__(self, params, defaults)
        check_concerns(type(self).__name__, self.param_groups)
        self._tell_grad_scaler()

    def _tell_grad_scaler(self) -> None:
        """Makes torch.amp.GradScaler set grad_scale and found_inf instead of unscaling the gradients.

        As with torch's classes, this happens only with fused=True: libraries that clip or read gradients between
        backward() and the step (Lightning, accelerate) refuse to do so where the attribute is set.
        """
        if self.defaults.get("fused"):
            self._step_supports_amp_scaling = True

    def _make_plain(self, group: dict[str, Any]) -> None:
        """Turns the group's numbers, for instance numpy's, or OmegaConf's lists of them, into Python's own."""
        where = type(self).__name__
        for name in group.keys() & {*self._numbers}:
            group[name] = plain_number(where, name, group[name])
        for name in group.keys() & {*self._pairs}:
            group[name] = plain_pair(where, name, group[name])
        for name, value in group.items():
            if isinstance(value, np.bool_):
                group[name] = bool(value)

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies, which hold plain numbers as checkpoints do."""
        for group in self.param_groups:
            self._make_plain(group)
        return super().__getstate__()

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises ValueError or RuntimeError if an option of the group makes no sense or is not supported."""
        for flag in group.keys() & _FLAGS:
            as_flag(type(self).__name__, flag, group[flag])
        check_implementation(type(self).__name__, group)
        check_precision(type(self).__name__, group)

    @in_turn
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, for instance layers that are unfrozen later.

        Args:
            param_group: ``params`` and any options that differ from the defaults.

        Raises:
            ValueError: There are no ``params``, an option is out of range, or a parameter is already in a group.
            TypeError: The group is not a dict, or an option is of another kind than its default.
        """
        check_holds(type(self).__name__, "param_group", param_group, "params")
        if param_group.get("rounding", "stochastic") != "stochastic":
            param_group.setdefault("seed", None)  # the default seed is for groups that round stochastically
        whole = {**self.defaults, **param_group}
        self._check_group(whole)
        params = param_group["params"]
        if not isinstance(params, (Tensor, set)):  # torch takes the one, and refuses the other
            params = param_group["params"] = listed(type(self).__name__, "params", params, "tensors")
        named = [params] if isinstance(params, Tensor) else params
        own = [p[1] if isinstance(p, tuple) else p for p in named]
        check_dtypes(type(self).__name__, whole, own)
        self._make_plain(param_group)
        # Defaults must concern one of all the groups; what a group asks for itself must concern this one.
        if param_group.keys() & {"rounding", "master_weights"} and all(isinstance(p, Tensor) for p in own):
            check_concerns(type(self).__name__, [{**whole, "params": own}])
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        if mode_of(added) == "stochastic" and option(added, "seed") is None:
            added["seed"] = drawn_seed()
        self._made.append(tuple(map(added.get, PRECISION)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for flag, value in IMPLEMENTATION_FLAGS.items():
                group.setdefault(flag, value)
            self._make_plain(group)
        if "defaults" in state:  # a copy or a pickle; a checkpoint does not decide this
            self._tell_grad_scaler()
            self._made = [tuple(map(group.get, PRECISION)) for group in self.param_groups]

    @in_turn
    def state_dict(self) -> dict[str, Any]:
        """Returns the optimizer's state, as torch's class of the same name gives and takes it.

        Raises:
            RuntimeError: The moving averages are in the parameters (`ema_parameters`). A checkpoint saved then
                would hold them as the model's weights, and training would silently resume from the averages.
            TypeError: An option that was set by hand is not of its kind.
            ValueError: It is out of range.

        Numbers that were put into the groups by hand become plain ones. A state_dtype becomes its name, a string:
        torch.distributed's full state dicts refuse to hold a torch.dtype.

        Source: torch.optim.Optimizer.state_dict.
        """
        self._check_no_averages_in("state_dict cannot be taken", "save the model alone there, or both outside")
        for group in self.param_groups:
            self._make_plain(group)
        saved = super().state_dict()
        # A hook may have put something else in its place.
        for group in saved.get("param_groups", ()):
            if isinstance(group.get("state_dtype"), torch.dtype):
                group["state_dtype"] = str(group["state_dtype"]).removeprefix("torch.")
        return saved

    @in_turn
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state_dict of this class or of torch's class of the same name.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: Something is missing, the groups do not match, or an option is out of range; nothing has
                been changed.
            TypeError: A part is of another kind than `state_dict` makes it; nothing has been changed.
            RuntimeError: The moving averages are in the parameters (`ema_parameters`).

        This optimizer keeps its own rounding, state_dtype and master_weights; a checkpoint made with others is
        converted (the model loads the parameters themselves, before the next step). The seed is the checkpoint's,
        so that a resumed run rounds as an uninterrupted one. Options that a checkpoint lacks keep this optimizer's
        values. One warning names those for which the checkpoint may have meant another value, and says how many
        parameters have states but no moving average where `ema_decay` asks for one.

        Differs from torch: float32 states of bfloat16 and float16 parameters stay float32 unless state_dtype says
        otherwise, where torch rounds them to the parameter's dtype; torch takes False for most options that are
        missing, silently.

        Source: torch.optim.Optimizer.load_state_dict.
        """
        name = type(self).__name__
        self._check_no_averages_in("load_state_dict cannot be called", "what is loaded belongs to the weights")
        # Checked before torch's class copies it; what hooks make of it is checked below.
        check_holds(name, "state_dict", state_dict)
        final: dict[str, Any] = {}
        own = [{key: group[key] for key in PRECISION if key in group} for group in self.param_groups]
        lacking: set[str] = set()

        # Registered last, so that it sees what the user's own hooks made of the checkpoint.
        def check(_: Optimizer, incoming: dict[str, Any]) -> dict[str, Any]:
            check_state_dict(name, incoming, self._saved_options)
            self._check_memory_of(incoming)
            incoming = {**incoming, **self._completed(incoming, lacking)}
            for group, options in zip(incoming["param_groups"], own, strict=False):
                given = {key: value for key, value in group.items() if key not in PRECISION}
                if mode_of(options) == "stochastic" and "seed" in group:
                    given["seed"] = group["seed"]
                self._check_group({**self.defaults, **IMPLEMENTATION_FLAGS, **options, **given})
            final.update(incoming)
            return incoming

        # Runs before the user's own hooks, so that theirs have the last word.
        def settle(_: Optimizer) -> None:
            for group, options in zip(self.param_groups, own, strict=True):
                saved = {key: group.pop(key) for key in PRECISION if key in group}
                group.update(options)
                if mode_of(group) == "stochastic" and saved.get("seed") is not None:
                    group["seed"] = saved["seed"]
            self._restore_dtypes(final)

        handles = (
            self.register_load_state_dict_pre_hook(cast(Any, check)),
            self.register_load_state_dict_post_hook(settle, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()
        if self._placeholders is not None:
            self._placeholders = None
        if lacking:
            # Two frames up: `in_turn` is in between.
            warnings.warn(f"{name}: state_dict lacks {'; '.join(sorted(lacking))}", stacklevel=3)

    def _check_memory_of(self, saved: dict[str, Any]) -> None:
        """Raises TypeError for a state that has no values to load."""
        for group, own in zip(saved["param_groups"], self.param_groups, strict=False):
            for index, param in zip(group["params"], own["params"], strict=False):
                for key, value in saved["state"].get(index, {}).items():
                    if isinstance(value, Tensor) and value.is_meta and not param.is_meta:
                        place = f"state_dict['state'][{told(index)}][{told(key)}]"
                        raise TypeError(f"{type(self).__name__}: {place} must have values, got a meta tensor")

    def _completed(self, saved: dict[str, Any], lacking: set[str]) -> dict[str, Any]:
        """Adds missing options to groups, drops empty states; adds to `lacking` what the user should know."""
        groups = [dict(group) for group in saved["param_groups"]]
        states = dict(saved["state"])
        without_average = 0
        for group, own in zip(groups, self.param_groups, strict=False):
            for key in self.defaults.keys() - PRECISION.keys() - group.keys():
                group[key] = own[key]
                if key in self._told_options and own[key]:
                    lacking.add(f"{key} (this optimizer's {own[key]} is kept)")
            found: dict[Tensor, dict[str, Any]] = {}
            for index, param in zip(group["params"], own["params"], strict=False):
                left = self._without_placeholders(group, param, states.pop(index, {}))
                if left:
                    states[index] = found[param] = left
            self._narrow(own, found)
            without_average += sum("ema" not in left for left in found.values())
        if without_average and self.ema_decay is not None:
            lacking.add(f"ema of {without_average} parameters (their averages begin with the next step)")
        return {"param_groups": groups, "state": states}

    def _without_placeholders(self, group: dict[str, Any], param: Tensor, own: dict[str, Any]) -> dict[str, Any]:
        # torch.distributed puts an empty dict in the place of a state that a flattened checkpoint lacks.
        left = {name: value for name, value in own.items() if not (isinstance(value, dict) and not value)}
        if group.get("dampening") and is_unbegun(left.get("momentum_buffer")):
            del left["momentum_buffer"]
        return left if self._placeholders is None else self._placeholders.without(param, left)

    def _narrow(self, group: dict[str, Any], states: dict[Tensor, dict[str, Any]]) -> None:
        """Narrows states that are float32 only because their placeholders were.

        Saved states of 16 bits hold only numbers that fit 16 bits; saved float32 states hold at least one that
        does not.
        """
        if self._placeholders is None:
            return
        wide = [
            (own, name, state_dtype_of(param, group))
            for param, own in states.items()
            for name in self._state_names
            if isinstance(own.get(name), Tensor) and own[name].dtype == torch.float32 and is_half(param)
        ]
        if all(all_exact(own[name], dtype) for own, name, dtype in wide):
            for own, name, dtype in wide:
                own[name] = own[name].to(dtype)

    def _restore_dtypes(self, saved: dict[str, Any]) -> None:
        """Copies states whose dtype torch has changed from the checkpoint again."""
        for group, packed in zip(self.param_groups, saved["param_groups"], strict=True):
            for index, param in zip(packed["params"], group["params"], strict=True):
                entries = saved["state"].get(index, {})
                for name in (*self._state_names, "ema"):
                    value = entries.get(name)
                    if isinstance(value, Tensor):
                        own = loaded_state_dtype(param, group, value.dtype)
                        dtype = average_dtype(param) if name == "ema" else own
                        self._restore_state(param, name, value, dtype)
                for name, value in entries.items():
                    # torch's class has converted them to the parameter's dtype.
                    stored = stored_dtype(name) if isinstance(name, str) else None
                    if stored is not None and isinstance(value, Tensor):
                        self._restore_state(param, name, value, stored)
                for name in LOW_STATES:
                    value = entries.get(name)
                    if not isinstance(value, Tensor):
                        continue
                    exact = low_dtype(param, name) == value.dtype or name == "kahan_comp"
                    # torch's class has converted them to the parameter's dtype, which makes them useless.
                    if low_name(param, group) is None or not exact:
                        self.state.get(param, {}).pop(name, None)
                    else:
                        self._restore_state(param, name, value, value.dtype)

    def _restore_state(self, param: Tensor, name: str, value: Tensor, dtype: torch.dtype) -> None:
        if self.state[param][name].dtype != dtype:
            self.state[param][name] = value.to(device=param.device, dtype=dtype)


def check_holds(name: str, place: str, value: Any, *keys: str) -> None:
    """Raises TypeError unless the value is a dict, ValueError unless it has these keys."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: {place} must be a dict, got {type(value).__name__}")
    for key in keys:
        if key not in value:
            raise ValueError(f"{name}: {place} must hold {key!r}, got {told(list(value))}")


def check_state_dict(name: str, saved: Any, options: tuple[str, ...]) -> None:
    """Raises TypeError or ValueError unless all parts that `state_dict` makes are there, of the same kinds."""
    check_holds(name, "state_dict", saved, "state", "param_groups")
    check_holds(name, "state_dict['state']", saved["state"])
    _check_list(name, "state_dict['param_groups']", saved["param_groups"])
    seen: set[Hashable] = set()
    for i, group in enumerate(saved["param_groups"]):
        place = f"state_dict['param_groups'][{i}]"
        check_holds(name, place, group, "params", *options)
        _check_list(name, f"{place}['params']", group["params"])
        for index in group["params"]:
            if not isinstance(index, Hashable):
                raise TypeError(f"{name}: {place}['params'] must hold numbers, got {told(index)}")
            if index in seen:
                raise ValueError(
                    f"{name}: {place}['params'] must hold each parameter once, got {told(index)} again"
                )
            seen.add(index)
            if index not in saved["state"]:
                continue
            own = f"state_dict['state'][{told(index)}]"
            check_holds(name, own, saved["state"][index])
            # Older versions of torch keep a number. A tensor may be on a GPU, so its value is not looked at.
            count = saved["state"][index].get("step", 0)
            if not isinstance(count, Tensor):
                number(name, f"{own}['step']", count)
            elif count.numel() != 1:
                raise ValueError(f"{name}: {own}['step'] must have one element, got shape {tuple(count.shape)}")


def _check_list(name: str, place: str, value: Any) -> None:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name}: {place} must be a list, got {type(value).__name__}")


def check_implementation(name: str, group: dict[str, Any]) -> None:
    """Raises RuntimeError, as torch does, if the flags contradict each other."""
    for flag in ("foreach", "differentiable"):
        if group["fused"] and group[flag]:
            raise RuntimeError(f"{name}: fused and {flag} must not both be True, got fused=True and {flag}=True")

"""The lists of a step: gradients, and states, which are made where they are missing and laid out as needed."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, ClassVar

import torch
from torch import Tensor

from onepass._arguments import told
from onepass._memory import check_memory
from onepass.optim._lists.arguments import Names
from onepass.optim._lists.layout import is_dense, laid_out_like, same_layout
from onepass.optim._lists.records import ListGroup, StepOptions
from onepass.optim._lists.tail import Tail
from onepass.optim._step.codes import (
    SCALES,
    all_decoded,
    check_codes,
    codes_name,
    fit_format,
    make_coded,
    names_of_codes,
)
from onepass.optim._step.placeholders import COMPILED_FRAMES, Placeholders, are_asked_for
from onepass.optim._step.precision import is_coded, is_half, low_name, make_low, mode_of, state_dtype_of
from onepass.optim._step.tailed import TailedOptimizer, wide_copy


class StatefulOptimizer(TailedOptimizer):
    """The states of an optimizer's parameters."""

    # Names of the state tensors that have their parameter's shape.
    _state_names: ClassVar[tuple[str, ...]] = ()
    # Set while states are there that no step has made, and perhaps nothing was loaded into.
    _placeholders: Placeholders | None = None

    def _drop_placeholders(self) -> None:
        """Drops states that are only placeholders: the next step is then a first step."""
        placeholders = self._placeholders
        if placeholders is None:
            return
        self._placeholders = None
        for param in list(self.state):
            left = placeholders.without(param, self.state[param])
            if left:
                self.state[param] = left
            else:
                del self.state[param]

    def __getstate__(self) -> dict[str, Any]:
        """Drops placeholders first: a copy or pickle could not recognise them."""
        self._drop_placeholders()
        return super().__getstate__()

    def _gradients(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], left_out: Set[int] = frozenset()
    ) -> None:
        """Appends the group's parameters that have a gradient, and the gradients; leaves out these ids."""
        self._drop_placeholders()  # a compiled step comes here first
        if not self.state and are_asked_for(COMPILED_FRAMES):
            raise RuntimeError(
                f"{type(self).__name__}: step must not be compiled where torch.distributed.checkpoint makes the "
                "first states, got a compiled one; compile it afterwards"
            )
        for param in group["params"]:
            grad = param.grad
            if grad is None or id(param) in left_out:
                continue
            if grad.layout != torch.strided:
                where = self._where(group, "grads", param)
                raise ValueError(f"{where} must be dense, got layout {grad.layout}")
            if param.is_complex() or grad.is_complex():
                where = self._where(group, "params", param)
                raise TypeError(f"{where} must be real, got {param.dtype} with gradient {grad.dtype}")
            params.append(param)
            grads.append(grad)

    def _list_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        options: StepOptions,
        states: Mapping[str, list[Tensor]],
        tail: Tail,
        left_out: Set[int],
        *,
        first: list[bool] | None = None,
        state_steps: list[Tensor] | None = None,
    ) -> ListGroup:
        """The parameters with a gradient as the core takes them: the rule's lists, and those of its tail."""
        return ListGroup(
            params,
            grads,
            options,
            states,
            first=first,
            state_steps=self._rounding_counts(group, params, tail) if state_steps is None else state_steps,
            scales=[self._state_of(group, p, SCALES, SCALES) for p in params] if is_coded(group) else None,
            lows=self._lows(group, params),
            emas=self._averages(group, params, tail),
            indices=with_gradient(group, left_out),
        )

    def _averages(self, group: dict[str, Any], params: list[Tensor], tail: Tail) -> list[Tensor] | None:
        """The moving averages of these parameters; a new average begins as a copy of its parameter."""
        if not tail.has_ema:
            return None
        for param in params:
            if "ema" not in self.state[param]:
                self.state[param]["ema"] = wide_copy(param.detach(), param)
        return [self._relaid_state(group, param, "ema", "emas") for param in params]

    def _lows(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor | None] | None:
        """What the parameters' 16 bits cannot hold, made where it is missing; None if the group keeps none."""
        if mode_of(group) not in ("kahan", "master"):
            return None
        return [self._low(group, param) for param in params]

    def _low(self, group: dict[str, Any], param: Tensor) -> Tensor | None:
        name = low_name(param, group)
        if name is None:
            return None
        own = self.state[param]
        of_another_half = name == "kahan_comp" and isinstance(own.get(name), Tensor) and is_half(own[name])
        if name not in own or (of_another_half and own[name].dtype != param.dtype):
            own[name] = make_low(param, own, name)
        return self._relaid_state(group, param, name, name)

    def _rounding_counts(self, group: dict[str, Any], params: list[Tensor], tail: Tail) -> list[Tensor] | None:
        """Step counts for a rule that has none: stochastic rounding and that of codes differ from step to step."""
        if mode_of(group) != "stochastic" and not is_coded(group):
            return None
        for param in params:
            if "step" not in self.state[param]:
                self.state[param]["step"] = step_count(param, bool(group.get("capturable")), 0.0)
        counts = [self.state[param]["step"] for param in params]
        if tail.may_skip:
            count_on_device(self.state, params, counts)
        return counts

    def _make_zero_states(self, group: dict[str, Any], param: Tensor, names: tuple[str, ...]) -> None:
        """Makes a parameter's states of these names, all zero, as the group keeps them."""
        own = self.state[param]
        if is_coded(group):
            make_coded(param, own, names)
            return
        for name in names:
            own[name] = torch.zeros_like(
                param, dtype=state_dtype_of(param, group), memory_format=torch.preserve_format
            )

    def _wanted_states(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The names of the states that the group's parameters have."""
        return self._state_names

    def _listed_state(self, group: dict[str, Any], param: Tensor, name: str, listed: str) -> Tensor:
        """The state tensor as the core takes it, turned into the group's format and its parameter's layout."""
        own = self.state[param]
        if is_coded(group) or names_of_codes(own, self._state_names):
            for place, value in (("params", param), *own.items()):  # they may be copied
                if isinstance(value, Tensor):
                    check_memory(self._where(group, place, param), value)
            where = self._where(group, "params", param)
            fit_format(group, param, own, self._state_names, self._wanted_states(group), where)
        return self._relaid_state(group, param, codes_name(name) if is_coded(group) else name, listed)

    def float_state_dict(self) -> dict[str, Any]:
        """Returns `state_dict` with states in 8 bits as float32 tensors, for torch's class of the same name.

        Raises:
            ValueError, TypeError: Codes or scales do not fit their parameter.

        Example:
            >>> import torch
            >>> from onepass.optim import AdamW
            >>> weight = torch.nn.Parameter(torch.ones(64))
            >>> optimizer = AdamW([weight], state_format="8bit")
            >>> weight.grad = torch.ones(64)
            >>> optimizer.step()
            >>> sorted(optimizer.float_state_dict()["state"][0])
            ['exp_avg', 'exp_avg_sq', 'step']
        """
        for group in self.param_groups:
            for param in group["params"]:
                where = self._where(group, "params", param)
                check_codes(param, self.state.get(param, {}), self._state_names, where)
        saved = self.state_dict()
        state = {}
        for key, entries in saved["state"].items():
            there = names_of_codes(entries, self._state_names)
            codes = {SCALES, *map(codes_name, there)} if there else set()
            kept = {name: value for name, value in entries.items() if name not in codes}
            state[key] = {**kept, **all_decoded(entries, self._state_names)}
        groups = [{k: v for k, v in group.items() if k != "state_format"} for group in saved["param_groups"]]
        return {**saved, "state": state, "param_groups": groups}

    def _relaid_state(self, group: dict[str, Any], param: Tensor, name: str, listed: str) -> Tensor:
        """The state tensor, replaced by one of its parameter's layout if a checkpoint had another."""
        value = self._state_of(group, param, name, listed)
        if not isinstance(value, Tensor):
            where = self._where(group, listed, param)
            raise TypeError(f"{where} must be a torch.Tensor, got {type(value).__name__}")
        if value.layout != torch.strided or (value.is_meta and not param.is_meta):
            where, kind = self._where(group, listed, param), "meta" if value.is_meta else value.layout
            raise TypeError(f"{where} must be a dense tensor with memory: got one of {kind}")
        if value.shape == param.shape and not same_layout(value, param) and is_dense(param):
            value = self.state[param][name] = laid_out_like(value, param)
        return value

    def _state_of(self, group: dict[str, Any], param: Tensor, name: str, listed: str) -> Any:
        """A state as it is; `listed` is what its list is called in errors."""
        if name not in self.state[param]:
            where = self._where(group, listed, param)
            raise ValueError(f"{where} must be in its parameter's state, got {told(list(self.state[param]))}")
        return self.state[param][name]

    def _where(self, group: dict[str, Any], listed: str, param: Tensor) -> str:
        """Names what belongs to a parameter, for errors."""
        number = next(i for i, other in enumerate(self.param_groups) if other is group)
        index = next(i for i, other in enumerate(group["params"]) if other is param)
        names = Names(type(self).__name__.lower(), (listed,), number if len(self.param_groups) > 1 else None)
        return names.full(0, index)


def step_count(param: Tensor, capturable: bool, value: float) -> Tensor:
    """A step count as torch keeps it: on the CPU, or with CUDA graphs on its parameter's device."""
    device = param.device if capturable else "cpu"
    return torch.tensor(value, dtype=torch.float32, device=device)


def count_on_device(state: dict[Tensor, Any], params: list[Tensor], state_steps: list[Tensor]) -> None:
    """Moves step counts to their CUDA parameters' device: only there it is known whether a step was taken."""
    for i, param in enumerate(params):
        if param.is_cuda and not state_steps[i].is_cuda:
            state_steps[i] = state[param]["step"] = state_steps[i].to(param.device, torch.float32)


def with_gradient(group: dict[str, Any], left_out: Set[int] = frozenset()) -> list[int]:
    """The positions in the group of the parameters that have a gradient, leaving out these ids."""
    return [i for i, p in enumerate(group["params"]) if p.grad is not None and id(p) not in left_out]

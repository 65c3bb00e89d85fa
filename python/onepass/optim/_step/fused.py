"""The step that all optimizers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from onepass import _native
from onepass._arguments import told
from onepass._memory import check_memory, lacks_memory
from onepass._versions import bump_versions
from onepass.optim._lists.kinds import is_sharded
from onepass.optim._lists.records import StateGroup, StepOptions
from onepass.optim._lists.run import rule_of
from onepass.optim._lists.tail import Tail
from onepass.optim._step.grouped import ParamsT, check_holds
from onepass.optim._step.kept import KeptGroup, kept_group
from onepass.optim._step.partly_fused import PartlyFused
from onepass.optim._step.placeholders import Placeholders, are_asked_for
from onepass.optim._step.precision import DEFAULTS as PRECISION
from onepass.optim._step.precision import (
    LOW_STATES,
    check_changed,
    check_dtypes,
    check_precision,
    drawn_seed,
    is_coded,
    loaded_state_dtype,
    low_name,
    mode_of,
    not_default,
    option,
)
from onepass.optim._step.tailed import wide_copy
from onepass.optim._step.turns import turn_of
from onepass.optim._step.watched import entered_if_watched

# Options that are checked when they are not what they were at the last step.
_SETTLED = (*PRECISION, "differentiable")
_PROXY = torch._C._TorchDispatchModeKey.PROXY
# The mode with which make_fx traces, if it does.
_dispatch_mode: Callable[[Any], Any] = torch._C._get_dispatch_mode
# Asked first: a stream cannot be capturing, and must not be created, where CUDA was never used.
_initialized: Callable[[], bool] = torch.cuda.is_initialized


class FusedOptimizer(PartlyFused):
    """An optimizer whose step updates all parameters of all groups in one native call.

    Subclasses say which options their groups have (`_check_group`, `_options`), which states a parameter has
    (`_init_group`), and the formula of the update (`_formula`).
    """

    # The options of low precision of each group, and whether it is differentiable, at the last step.
    _precision: list[tuple[Any, ...]] | None = None
    # Whether a step asks the kernels before torch's loop: not so where a group is differentiable.
    _asks_kernels = True
    # Whether a parameter is a DTensor, and what steps them then.
    _is_sharded = False
    _shards: Any = None
    # The numbers of the groups' first parameters, where they are those of another optimizer.
    _firsts: Sequence[int] | None = None
    # Whether a step has made, replaced or removed states since this was last set to False.
    has_replaced_states = False
    # What the core and the groups' options remember between steps. Neither is pickled or copied:
    # Optimizer.__getstate__ leaves them out.
    _plan: Any = None
    _kept: Sequence[KeptGroup] = ()

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        max_grad_norm: float | None,
        skip_nonfinite: bool,
        ema_decay: float | None,
        telemetry: bool,
        **precision: Any,
    ) -> None:
        """Checks all options before anything is made of them; defaults: those of the rule."""
        defaults.update(not_default(precision))
        self._check_group(defaults)
        self._set_tail(max_grad_norm, skip_nonfinite, ema_decay, telemetry)
        super().__init__(params, defaults)

    def _patch_step_function(self) -> None:
        before: Any = type(self).step
        super()._patch_step_function()
        # It leaves a class alone that it knows already, or whose step is marked. What it changes is the class, as
        # here, which mypy takes for a mistake.
        if type(self).step is not before:
            type(self).step = entered_if_watched(type(self).step)  # type: ignore[method-assign]

    def step(self, closure: Callable[[], Any] | None = None, *, zero_grad: bool = False) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: Reevaluates the model and returns the loss; called once, with gradients enabled.
            zero_grad: Also set the gradients to zero, in the same pass, even if the step is skipped; their memory
                stays.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: A gradient, state or hyper-parameter does not fit; nothing has been changed.
            RuntimeError: The moving averages are in the parameters (`ema_parameters`).
            TypeError: A dtype or kind of tensor that is not supported; nothing has been changed.

        Threads that step the same optimizer at once wait for each other: the steps happen one after the other. The
        closure and hooks run outside of that.

        Differs from torch: the profiler range ``Optimizer.step#...`` is opened only while one of torch's profilers
        runs or a hook is registered; an observer of another kind does not see it.
        """
        loss = None
        if closure is not None:
            if not callable(closure):
                raise TypeError(f"{type(self).__name__}: closure must be a function or None, got {told(closure)}")
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            if not torch.compiler.is_compiling():
                if _dispatch_mode(_PROXY) is None:
                    self._step_eager(zero_grad)
                else:
                    self._step_traced(zero_grad)
            elif (
                self._has_tail(zero_grad)
                or any(mode_of(group) or is_coded(group) for group in self.param_groups)
                or self._needs_loop()
            ):
                self._step_between_graphs(zero_grad)
            else:
                self._step_compiled()
        return loss

    # torch.compiler.disable, which torch.optim itself takes from here: the public one loads the whole compiler.
    @_disable_dynamo
    def _step_between_graphs(self, zero_grad: bool) -> None:
        self._step_eager(zero_grad)

    def _step_traced(self, zero_grad: bool) -> None:
        """Takes the step by operators, which make_fx sees; a kernel call would be missing from its graph."""
        special = any(mode_of(group) or is_coded(group) for group in self.param_groups)
        if self._has_tail(zero_grad) or special or self._needs_loop():
            raise RuntimeError(
                f"{type(self).__name__}: a step that make_fx traces must have no tail, no option of low precision "
                "and no parameters that torch's loop updates"
            )
        self._step_compiled()

    def _step_eager(self, zero_grad: bool) -> None:
        with self._turn or turn_of(self):
            self._step_in_turn(zero_grad)

    def _step_in_turn(self, zero_grad: bool) -> None:
        if not self.state and self._is_asked_for_states():
            self._make_placeholders()
            return
        if self._placeholders is not None:
            self._drop_placeholders()
        tail = self._prepare_tail(zero_grad)
        capturing = _initialized() and torch.cuda.is_current_stream_capturing()
        if capturing:
            self._check_capture()
        precision = [tuple(map(group.get, _SETTLED)) for group in self.param_groups]
        if precision != self._precision:
            self._settle_precision()
        if self._is_sharded:
            self._step_shards(zero_grad)
            return
        groups = self._state_groups()
        if type(self._plan) is not _native.core.Plan:
            self._plan = _native.core.Plan()
        try:
            if self._asks_kernels and rule_of(self._formula).step(
                self._plan, self.state, groups, bump_versions, tail.asked, torch.get_num_threads()
            ):
                return
        except (TypeError, ValueError, RuntimeError) as error:
            if not self._is_fake_step():
                self._raise_by_own_name(error)
                raise
        if capturing:
            raise RuntimeError(
                f"{type(self).__name__}: the first step must be taken before a CUDA graph is captured (it makes "
                "the states, and a replay would make them again), got a capture with states missing, tensors "
                "whose layout is not their parameter's, or parameters that torch's loop updates"
            )
        self._step_irregular(tail)

    def _step_shards(self, zero_grad: bool) -> None:
        if any(is_coded(group) for group in self.param_groups):
            raise ValueError(
                f"{type(self).__name__}: state_format must be None with DTensor parameters (their blocks would be "
                "cut by the shards), got '8bit'"
            )
        # Loads torch.distributed's DTensor, which is there already where there is one.
        from onepass.optim._step.sharded import Shards, kind_of

        shards = self._shards
        if shards is None or not shards.fit(self):
            shards = self._shards = Shards(self, kind_of(self))
        shards.step(self, zero_grad)

    def _state_groups(self) -> list[StateGroup]:
        """The groups as the core takes them, those of the last step where nothing in a group has changed."""
        before, kept = self._kept, []
        for number, (first, group) in enumerate(self._numbered_groups()):
            found = before[number] if number < len(before) else None
            if found is None or not found.is_of(group, first):
                try:
                    made: StateGroup = {"params": group["params"], "options": self._options(group, first)}
                except KeyError as error:
                    place = f"{type(self).__name__}: param_groups[{number}]"
                    raise ValueError(f"{place} must hold {error}, got {told(list(group))}") from None
                found = kept_group(group, first, made)
            kept.append(found)
        self._kept = kept
        return [one.made for one in kept]

    def _raise_by_own_name(self, error: Exception) -> None:
        """Raises the core's error under the name of this class; the core calls a step by its formula."""
        name, text = type(self).__name__.lower(), str(error)
        if name != self._formula and text.startswith(f"{self._formula}: "):
            raise type(error)(name + text[len(self._formula) :]) from None

    def _is_asked_for_states(self) -> bool:
        # SGD without momentum never has states: after its first step it looks at the callers only at a rate of 0.
        lr = self.param_groups[0].get("lr") if self.param_groups else 1.0
        return not (self._plan is not None and type(lr) is float and lr) and are_asked_for()

    def _make_placeholders(self) -> None:
        try:
            # So that they can be written later: the caller may be in inference mode.
            with torch.inference_mode(False), torch.no_grad():
                for group in self.param_groups:
                    self._make_placeholders_of(group, [p for p in group["params"] if p.grad is not None])
        except BaseException:
            self.state.clear()
            raise
        self._placeholders = Placeholders(self.state)

    def _make_placeholders_of(self, group: dict[str, Any], params: list[Tensor]) -> None:
        self._begin_states(group, params)
        self._lows(group, params)
        for param in params:
            own = self.state.get(param, {})
            for name in own.keys() & set(self._state_names):
                # Float32 ones of a checkpoint must not be rounded; `load_state_dict` narrows the others.
                own[name] = own[name].to(loaded_state_dtype(param, group, torch.float32))
            if self.ema_decay is not None:
                self.state[param]["ema"] = wide_copy(param.detach(), param)

    def _begin_states(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Makes the states that the parameters' first step needs, except those of tail and precision."""
        raise NotImplementedError

    def _settle_precision(self) -> None:
        """Checks the options of low precision, which a user may have changed, and fits the states to them."""
        name = type(self).__name__
        for number, group in enumerate(self.param_groups):
            check_holds(name, f"param_groups[{number}]", group, "params", "differentiable")
            check_precision(name, group)
            check_dtypes(name, group, group["params"])
            self._check_states(group)
            if self._precision is None:
                self._check_storage(group)
        # Groups that were put into the list by hand differ from the defaults or not.
        known = [*(self._precision or ()), *self._made[len(self._precision or ()) :]]
        unknown = tuple(map(self.defaults.get, _SETTLED))
        before = [known[i] if i < len(known) else unknown for i in range(len(self.param_groups))]
        check_changed(name, self.param_groups, before)
        for group in self.param_groups:
            if mode_of(group) == "stochastic" and option(group, "seed") is None:
                group["seed"] = drawn_seed()
            if self._precision is not None:
                for param in group["params"]:
                    self._fit_states(group, param, self.state.get(param, {}))
        self._precision = [tuple(map(group.get, _SETTLED)) for group in self.param_groups]
        # Their groups are cut by what is rounded by draws.
        self._shards = None
        self._asks_kernels = not any(group["differentiable"] for group in self.param_groups)
        self._is_sharded = any(is_sharded(param) for group in self.param_groups for param in group["params"])

    def _check_storage(self, group: dict[str, Any]) -> None:
        """Raises ValueError for a parameter or state whose storage was cut short before the first step.

        A kernel would read and write what is behind it. A later step does not see a storage's size.
        """
        for param in group["params"]:
            own = self.state.get(param, {})
            for listed, value in (("params", param), *own.items()):
                found = lacks_memory(value) if isinstance(value, Tensor) else None
                if found is not None and found[0]:  # the core sees a freed one
                    check_memory(self._where(group, listed, param), value)

    def _check_states(self, group: dict[str, Any]) -> None:
        """Raises ValueError if the group has an option for states that the rule does not make."""

    def _fit_states(self, group: dict[str, Any], param: Tensor, own: dict[str, Any]) -> None:
        for name in self._state_names:
            value = own.get(name)
            if isinstance(value, Tensor) and value.is_floating_point():
                dtype = loaded_state_dtype(param, group, value.dtype)
                own[name] = value if value.dtype == dtype else value.to(dtype)
        if low_name(param, group) is None:
            _drop(own, LOW_STATES)

    def _check_capture(self) -> None:
        """Raises RuntimeError if a replay of the graph now captured would not be a step."""
        if any(mode_of(group) == "stochastic" and not group.get("capturable") for group in self.param_groups):
            raise RuntimeError(
                f"{type(self).__name__}: capturable must be True in every group that rounds stochastically while "
                "a CUDA graph is captured (the step count would be baked in), got False"
            )

    def _step_irregular(self, tail: Tail) -> None:
        """Takes a step where a state is missing or a layout differs; raises if something is wrong."""
        self.has_replaced_states = True
        if self._holds_shards():
            # A parameter has become one since the first step, or its gradient is one.
            self._is_sharded = True
            self._step_shards(tail.zero_grad)
            return
        apart = self._apart()
        before = {p: set(self.state.get(p, ())) for group in self.param_groups for p in group["params"]}
        taken = False
        try:
            if self._is_fake_step():
                taken = self._step_fake(tail, apart)
            elif apart:
                taken = self._step_divided(tail, apart)
            else:
                self._run_lists(self._make_lists(tail, frozenset()), tail)
                taken = not tail.skipped_on_host()
        finally:
            # A step that is rejected or skipped leaves no states behind.
            if not taken:
                self._drop_states_but(before)
        if taken:
            for group in self.param_groups:
                for param in group["params"]:
                    kept = low_name(param, group)
                    _drop(self.state.get(param, {}), [name for name in LOW_STATES if name != kept])

    def _drop_states_but(self, before: dict[Tensor, set[str]]) -> None:
        for param, names in before.items():
            own = self.state.get(param, {})
            for name in own.keys() - names:
                del own[name]
            if not own:
                self.state.pop(param, None)

    def _step_compiled(self) -> None:
        raise NotImplementedError

    def _options(self, group: dict[str, Any], first: int) -> StepOptions:
        """The group's options as the core takes them; first: number of its first parameter."""
        raise NotImplementedError

    def _numbered_groups(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The groups, each with the number of its first parameter among all of the optimizer."""
        if self._firsts is not None:
            yield from zip(self._firsts, self.param_groups, strict=True)
            return
        first = 0
        for group in self.param_groups:
            yield first, group
            first += len(group["params"])


def _drop(own: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        own.pop(name, None)

"""What SGD, Adam and AdamW share: the step, its checks, and the exchange of checkpoints with torch.optim."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from onepass import _native
from onepass.optim._arguments import Names
from onepass.optim._layout import is_dense, laid_out_like, same_layout
from onepass.optim._precision import DEFAULTS as PRECISION
from onepass.optim._precision import (
    LOW_STATES,
    check_concerns,
    check_dtypes,
    check_precision,
    drawn_seed,
    is_half,
    loaded_state_dtype,
    low_dtype,
    low_name,
    make_low,
    mode_of,
    option,
)
from onepass.optim._tail import Tail, TailedOptimizer, wide_copy
from onepass.optim.functional import bump_versions

# How torch names its implementations; ours is the fused one, whatever a loaded checkpoint says.
IMPLEMENTATION_FLAGS = {"foreach": None, "fused": None, "differentiable": False}


# Asked first: a stream cannot be capturing, and must not be created, where CUDA was never used.
_initialized: Callable[[], bool] = torch.cuda.is_initialized


class FusedOptimizer(TailedOptimizer):
    """An optimizer whose step updates all parameters of all groups in one native call.

    Subclasses say which options their groups have (`_check_group`, `_options`), which states a parameter has
    (`_init_group`), and which native function takes the step.
    """

    # Names of the state tensors that have their parameter's shape.
    _state_names: ClassVar[tuple[str, ...]] = ()
    # The options of low precision of each group at the last step.
    _precision: list[tuple[Any, ...]] | None = None
    # What the core remembers between steps. Not pickled or copied: Optimizer.__getstate__ leaves it out.
    _plan: Any = None

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        check_concerns(type(self).__name__, self.param_groups)

    def step(self, closure: Callable[[], Any] | None = None, *, zero_grad: bool = False) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: Reevaluates the model and returns the loss; called once, with gradients enabled.
            zero_grad: Also set the gradients to zero, in the same pass; their memory stays. Those of a skipped
                step, too.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: A gradient, state or hyper-parameter does not fit; nothing has been changed.
            RuntimeError: The moving averages are in the parameters (`ema_parameters`).
            TypeError: A dtype or kind of tensor that is not supported; nothing has been changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            if not torch.compiler.is_compiling():
                self._step_eager(zero_grad)
            elif self._has_tail(zero_grad) or any(mode_of(group) for group in self.param_groups):
                self._step_between_graphs(zero_grad)
            else:
                self._step_compiled()
        return loss

    # torch.compiler.disable, which torch.optim itself takes from here: the public one loads the whole compiler.
    @_disable_dynamo
    def _step_between_graphs(self, zero_grad: bool) -> None:
        self._step_eager(zero_grad)

    def _step_eager(self, zero_grad: bool) -> None:
        tail = self._prepare_tail(zero_grad)
        capturing = _initialized() and torch.cuda.is_current_stream_capturing()
        if capturing:
            self._check_capture()
        precision = [tuple(map(group.get, PRECISION)) for group in self.param_groups]
        if precision != self._precision:
            self._settle_precision()
        groups = [(group["params"], self._options(group, first)) for first, group in self._numbered_groups()]
        if type(self._plan) is not _native.core.Plan:
            self._plan = _native.core.Plan()
        written = self._native_step(groups, tail)
        if written is None:
            if capturing:
                raise RuntimeError(
                    f"{type(self).__name__}: the first step must be taken before a CUDA graph is captured (it "
                    "makes the states, and a replay would make them again), got a capture with states missing "
                    "or tensors whose layout is not their parameter's"
                )
            self._step_irregular(tail)
        else:
            bump_versions(written)

    def _settle_precision(self) -> None:
        """Checks the options of low precision, which may have been changed by hand; then fits states."""
        name = type(self).__name__
        for group in self.param_groups:
            check_precision(name, group)
            check_dtypes(name, group, group["params"])
        for group in self.param_groups:
            if mode_of(group) == "stochastic" and option(group, "seed") is None:
                group["seed"] = drawn_seed()
            if self._precision is not None:
                for param in group["params"]:
                    self._fit_states(group, param, self.state.get(param, {}))
        self._precision = [tuple(map(group.get, PRECISION)) for group in self.param_groups]

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

    def _step_irregular(self, tail: Tail) -> None:
        """The step when a state is missing or a layout differs; says what is wrong if something is."""
        before = {p: set(self.state.get(p, ())) for group in self.param_groups for p in group["params"]}
        taken = False
        try:
            self._step_lists(tail)
            taken = not tail.skipped_on_host()
        finally:
            # The states of a rejected or skipped step go as they came.
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

    def _native_step(self, groups: list[tuple[list[Tensor], Any]], tail: Tail) -> list[Tensor] | None:
        """Takes the step in the regular case; returns the tensors written, but for states, else None."""
        raise NotImplementedError

    def _step_lists(self, tail: Tail) -> None:
        raise NotImplementedError

    def _step_compiled(self) -> None:
        raise NotImplementedError

    def _options(self, group: dict[str, Any], first: int) -> Any:
        """The group's options as the core takes them; first: number of its first parameter."""
        raise NotImplementedError

    def _numbered_groups(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The groups, each with the number of its first parameter among all of the optimizer."""
        first = 0
        for group in self.param_groups:
            yield first, group
            first += len(group["params"])

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises ValueError if an option of the group has no sense or is not supported."""
        check_implementation(type(self).__name__, group)
        check_precision(type(self).__name__, group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, for instance layers that are unfrozen later.

        Args:
            param_group: ``params`` and any options that differ from the defaults.

        Raises:
            ValueError: An option is out of range, or a parameter is already in a group.
        """
        if param_group.get("rounding", "stochastic") != "stochastic":
            param_group.setdefault("seed", None)  # the default one is for others
        whole = {**self.defaults, **param_group}
        self._check_group(whole)
        params = param_group["params"]
        if not isinstance(params, (Tensor, set)):  # torch takes the one, and refuses the other
            params = param_group["params"] = list(params)
        named = [params] if isinstance(params, Tensor) else params
        own = [p[1] if isinstance(p, tuple) else p for p in named]
        check_dtypes(type(self).__name__, whole, own)
        # Defaults are for all groups together; what a group asks for itself must concern it.
        if param_group.keys() & {"rounding", "master_weights"} and all(isinstance(p, Tensor) for p in own):
            check_concerns(type(self).__name__, [{**whole, "params": own}])
        super().add_param_group(param_group)
        added = self.param_groups[-1]
        if mode_of(added) == "stochastic" and option(added, "seed") is None:
            added["seed"] = drawn_seed()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.update(IMPLEMENTATION_FLAGS)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state_dict of this class or of torch's class of the same name.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: The groups do not match, or an option is out of range; nothing has been changed.

        The options rounding, state_dtype and master_weights stay this optimizer's own: a checkpoint that was made
        with others is converted (the parameters themselves are the model's to load, before the next step). The
        seed is the checkpoint's, so that a resumed run rounds as one that was not interrupted.

        Differs from torch: float32 states of bfloat16 and float16 parameters stay float32 unless state_dtype says
        otherwise, where torch rounds them to the parameter's dtype; the flags foreach, fused and differentiable
        stay this optimizer's own.

        Source: torch.optim.Optimizer.load_state_dict.
        """
        final: dict[str, Any] = {}
        own = [{name: group[name] for name in PRECISION if name in group} for group in self.param_groups]

        # Registered last, so that it sees what the user's own hooks made of the checkpoint.
        def check(_: Optimizer, incoming: dict[str, Any]) -> None:
            for group, options in zip(incoming["param_groups"], own, strict=False):
                given = {name: value for name, value in group.items() if name not in PRECISION}
                if mode_of(options) == "stochastic" and "seed" in group:
                    given["seed"] = group["seed"]
                self._check_group({**self.defaults, **options, **given, **IMPLEMENTATION_FLAGS})
            final.update(incoming)

        handle = self.register_load_state_dict_pre_hook(cast(Any, check))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        for group, options in zip(self.param_groups, own, strict=True):
            saved = {name: group.pop(name) for name in PRECISION if name in group}
            group.update(options)
            if mode_of(group) == "stochastic" and saved.get("seed") is not None:
                group["seed"] = saved["seed"]
        self._restore_dtypes(final)

    def _restore_dtypes(self, saved: dict[str, Any]) -> None:
        """Takes the states from the checkpoint anew whose dtype is not what torch made of it."""
        for group, packed in zip(self.param_groups, saved["param_groups"], strict=True):
            for index, param in zip(packed["params"], group["params"], strict=True):
                entries = saved["state"].get(index, {})
                wide = torch.float64 if param.dtype == torch.float64 else torch.float32
                for name in (*self._state_names, "ema"):
                    value = entries.get(name)
                    if isinstance(value, Tensor):
                        dtype = wide if name == "ema" else loaded_state_dtype(param, group, value.dtype)
                        self._restore_state(param, name, value, dtype)
                for name in LOW_STATES:
                    value = entries.get(name)
                    if not isinstance(value, Tensor):
                        continue
                    exact = low_dtype(param, name) == value.dtype or name == "kahan_comp"
                    # torch's class makes the parameter's dtype of them: of no use any more.
                    if low_name(param, group) is None or not exact:
                        self.state.get(param, {}).pop(name, None)
                    else:
                        self._restore_state(param, name, value, value.dtype)

    def _restore_state(self, param: Tensor, name: str, value: Tensor, dtype: torch.dtype) -> None:
        if self.state[param][name].dtype != dtype:
            self.state[param][name] = value.to(device=param.device, dtype=dtype)

    def _gradients(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Appends the group's parameters that have a gradient, and the gradients."""
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad.layout != torch.strided:
                where = self._where(group, "grads", param)
                raise ValueError(f"{where} must be dense, got layout {grad.layout}")
            if param.is_complex() or grad.is_complex():
                where = self._where(group, "params", param)
                raise TypeError(f"{where} must be real, got {param.dtype} with gradient {grad.dtype}")
            params.append(param)
            grads.append(grad)

    def _averages(self, group: dict[str, Any], params: list[Tensor], tail: Tail) -> list[Tensor] | None:
        """The moving averages of these parameters, those that begin now being copies of them."""
        if not tail.has_ema:
            return None
        for param in params:
            if "ema" not in self.state[param]:
                self.state[param]["ema"] = wide_copy(param.detach(), param)
        return [self._relaid_state(group, param, "ema", "emas") for param in params]

    def _lows(self, group: dict[str, Any], params: list[Tensor]) -> list[Tensor | None] | None:
        """What the parameters' own 16 bits do not hold, made where it is missing; None if the group keeps none."""
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

    def _relaid_state(self, group: dict[str, Any], param: Tensor, name: str, listed: str) -> Tensor:
        """The state tensor, brought once and for all to its parameter's layout (a checkpoint may have another)."""
        value = self._state_of(group, param, name, listed)
        if not isinstance(value, Tensor):
            where = self._where(group, listed, param)
            raise TypeError(f"{where} must be a torch.Tensor, got {type(value).__name__}")
        if value.shape == param.shape and not same_layout(value, param) and is_dense(param):
            value = self.state[param][name] = laid_out_like(value, param)
        return value

    def _state_of(self, group: dict[str, Any], param: Tensor, name: str, listed: str) -> Any:
        """A state as it is; `listed` is what its list is called in errors."""
        if name not in self.state[param]:
            where = self._where(group, listed, param)
            raise ValueError(f"{where} must be in its parameter's state, got {list(self.state[param])}")
        return self.state[param][name]

    def _where(self, group: dict[str, Any], listed: str, param: Tensor) -> str:
        """Names what belongs to a parameter, for errors."""
        number = next(i for i, other in enumerate(self.param_groups) if other is group)
        index = next(i for i, other in enumerate(group["params"]) if other is param)
        names = Names(type(self).__name__.lower(), (listed,), number if len(self.param_groups) > 1 else None)
        return names.full(0, index)


def _drop(own: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        own.pop(name, None)


def check_implementation(name: str, group: dict[str, Any]) -> None:
    """Raises ValueError if the user asks for one of torch's other implementations."""
    if group["foreach"]:
        raise ValueError(f"{name}: foreach must be None or False (the update is one fused pass), got True")
    if group["fused"] is not None and not group["fused"]:
        raise ValueError(f"{name}: fused must be None or True (the update is one fused pass), got False")
    if group["differentiable"]:
        raise ValueError(f"{name}: differentiable must be False (there is no gradient of the update), got True")


def step_count(param: Tensor, capturable: bool, value: float) -> Tensor:
    """A step count as torch keeps it: on the CPU, or beside its parameter for CUDA graphs."""
    device = param.device if capturable else "cpu"
    return torch.tensor(value, dtype=torch.float32, device=device)


def count_on_device(state: dict[Tensor, Any], params: list[Tensor], state_steps: list[Tensor]) -> None:
    """Moves step counts to CUDA parameters: only there is known whether a step was taken."""
    for i, param in enumerate(params):
        if param.is_cuda and not state_steps[i].is_cuda:
            state_steps[i] = state[param]["step"] = state_steps[i].to(param.device, torch.float32)


def with_gradient(group: dict[str, Any]) -> list[int]:
    """Where in the group the parameters stand that have a gradient."""
    return [i for i, param in enumerate(group["params"]) if param.grad is not None]


ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

"""Parameters that the kernels do not update: torch's own loop does, in the same step as the fused ones.

Nothing here is asked for before the core has refused a step, or a group is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from onepass._versions import bump_versions
from onepass.optim._lists.kinds import hides_memory, is_fake, is_plain, is_sharded
from onepass.optim._lists.layout import overlaps_itself
from onepass.optim._step.grouped import GroupedOptimizer
from onepass.optim._step.precision import mode_of, option
from onepass.optim._step.tailed import NO_TAIL, Tail, average_dtype

__all__ = ["PartlyFused", "UnfusedParameter"]


class UnfusedParameter(NamedTuple):
    """A parameter that has no part in the fused pass."""

    group: int
    """The number of its param group."""
    position: int
    """Its place in the group."""
    param: Tensor
    """The parameter itself."""
    why: str
    """As "complex parameter", "sparse gradient", "differentiable", "tensor of class MaskedTensor"."""


class _Decision(NamedTuple):
    """What a tail decides of a step before it is taken."""

    factor: float = 1.0
    skip: bool = False
    norm: float = math.nan


class PartlyFused(GroupedOptimizer):
    """Steps that divide the parameters between the kernels and torch's loop."""

    # Whether torch's loop takes sparse gradients.
    _takes_sparse: ClassVar[bool] = False

    def unfused_parameters(self) -> list[UnfusedParameter]:
        """The parameters that torch's own loop updates, one by one, and why.

        They are complex, have a sparse gradient now (`SGD`), stand in a group with ``differentiable=True``, or are
        of a tensor subclass that keeps its memory to itself. All others are updated together in one pass.

        Returns:
            One entry for each, in the order of the groups; without one nothing is left out of the fused pass.

        Example:
            >>> import torch, onepass
            >>> params = [torch.nn.Parameter(torch.zeros(2, dtype=d)) for d in (torch.float32, torch.complex64)]
            >>> [found.why for found in onepass.optim.SGD(params).unfused_parameters()]
            ['complex parameter']
        """
        return [
            UnfusedParameter(number, position, param, why)
            for number, group in enumerate(self.param_groups)
            for position, param in enumerate(group["params"])
            if (why := self._why_unfused(group, param)) is not None
        ]

    def _why_unfused(self, group: dict[str, Any], param: Tensor) -> str | None:
        grad = param.grad
        if group["differentiable"]:
            return "differentiable"
        if param.is_complex():
            return "complex parameter"
        dense = param.layout == torch.strided
        if self._takes_sparse and dense and grad is not None and grad.layout == torch.sparse_coo:
            return "sparse gradient"
        hidden = [one for one in (param, grad) if one is not None and not is_fake(one) and hides_memory(one)]
        if not hidden:
            return None
        return "tensor of torch.func" if is_plain(hidden[0]) else f"tensor of class {type(hidden[0]).__name__}"

    def _needs_loop(self) -> bool:
        """Whether torch's loop has a part in the next step. torch.compile runs this untraced."""
        return bool(self._apart())

    # torch.compiler.assume_constant_result, which would load the whole compiler, sets this mark.
    _needs_loop._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _apart(self) -> list[UnfusedParameter]:
        """Those of `unfused_parameters` that have a gradient; raises TypeError if one is of no known kind."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and (is_sharded(param) or is_sharded(param.grad)):
                    raise TypeError(
                        f"{self._where(group, 'params', param)} must be a plain tensor, got a DTensor; until "
                        f"sharded parameters are supported here use torch.optim.{self._torch_name()} for them"
                    )
        return [found for found in self.unfused_parameters() if found.param.grad is not None]

    def _torch_name(self) -> str:
        return next(base.__name__ for base in type(self).__mro__ if base.__module__.startswith("torch.optim"))

    def _is_fake_step(self) -> bool:
        """True if parameters or gradients are fake; raises TypeError if that is not so of all."""
        stepped = [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]
        fake = [is_fake(p) or is_fake(p.grad) for _, p in stepped]
        if any(fake) and not all(fake):
            group, real = stepped[fake.index(False)]
            raise TypeError(
                f"{self._where(group, 'params', real)} must be a fake tensor like others, got a real one"
            )
        return any(fake)

    def _check_unfused(self, tail: Tail, apart: list[UnfusedParameter]) -> None:
        """Raises ValueError or TypeError if torch's loop would not do what is asked, or stop within its step."""
        for number in {found.group: None for found in apart}:
            self._check_group(self.param_groups[number])
        for found in apart:
            group, param = self.param_groups[found.group], found.param
            where, what = self._where(group, "params", param), f"{found.why}, which torch's loop updates"
            asked = {name: value for name, value in self._fused_only(tail, group).items() if value}
            if asked:
                name, value = next(iter(asked.items()))
                raise ValueError(f"{where} must not come with {name} ({what}), got {name}={value!r}")
            self._check_loop_tensors(group, param, where)
            self._check_loop(group, found, where)

    def _fused_only(self, tail: Tail, group: dict[str, Any]) -> dict[str, Any]:
        """The options that only the kernels know, with what is asked of them."""
        asked: dict[str, Any] = {"rounding": mode_of(group) in ("stochastic", "kahan") and group["rounding"]}
        asked["master_weights"] = option(group, "master_weights")
        asked["state_dtype"] = option(group, "state_dtype")
        asked["telemetry"] = self.telemetry
        if group["differentiable"] and tail.options is not None:
            # Through these no gradient would flow.
            names = ("max_grad_norm", "skip_nonfinite", "zero_grad", "ema_decay", "grad_scale", "found_inf")
            for name, value in zip(names, tail.options, strict=True):
                asked[name] = value is not None and value is not False and str(value)
        return asked

    def _check_loop_tensors(self, group: dict[str, Any], param: Tensor, where: str) -> None:
        own = self.state.get(param, {})
        states = {f"state {name}": own[name] for name in self._state_names if own.get(name) is not None}
        for name, value in {"gradient": param.grad, **states}.items():
            if not isinstance(value, Tensor) or value.shape != param.shape:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{where} must have a {name} of its shape {tuple(param.shape)}, got {got}")
            if value.is_complex() != param.is_complex():
                raise TypeError(f"{where} must have a {name} of its dtype {param.dtype}, got {value.dtype}")
        for name, value in {"parameter": param, **states}.items():
            self._check_writable(group, f"{where} must have a {name}", value)

    def _check_writable(self, group: dict[str, Any], must: str, value: Tensor) -> None:
        if value.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(f"{must} that can be written here, got one made in inference mode")
        if value.layout == torch.strided and overlaps_itself(value):
            raise ValueError(f"{must} of one place in memory for each element, got strides {value.stride()}")
        if self._flows(group) and value.requires_grad and value.is_leaf:
            raise ValueError(f"{must} that gradients can flow through, got a leaf that requires grad; clone it")

    def _flows(self, group: dict[str, Any]) -> bool:
        # As torch does it: gradients flow if that was asked for when the optimizer was made.
        return bool(group["differentiable"] and self.defaults.get("differentiable"))

    def _check_loop(self, group: dict[str, Any], found: UnfusedParameter, where: str) -> None:
        """Raises ValueError if an option of this class does not go with the parameter."""

    def _begin_loop_states(self, group: dict[str, Any], param: Tensor) -> None:
        """Makes the states with which torch's loop begins; raises ValueError if some are there and others not."""

    def _step_divided(self, tail: Tail, apart: list[UnfusedParameter]) -> bool:
        """A step of which torch's loop takes a part; returns whether it was taken. Waits for a GPU with a tail."""
        self._check_unfused(tail, apart)
        options = tail.options
        decided = _Decision() if options is None else self._decide(options)
        if not decided.skip:
            rest = self._rest_of(tail)
            averages = self._begin_averages(apart, tail)
            for found in apart:
                self._begin_loop_states(self.param_groups[found.group], found.param)
            groups = self._make_lists(rest, {id(found.param) for found in apart})
            for group in groups if decided.factor != 1 else ():
                group[1][:] = [_scaled(grad, decided.factor) for grad in group[1]]
            # First what may still be refused.
            self._run_lists(groups, rest)
            self._step_apart(apart, decided.factor)
            for found, average in averages:
                decay = rest.options[3] if rest.options else 0
                average.mul_(decay).add_(found.param.detach().to(average.dtype), alpha=1 - decay)
        if options is not None:
            self._finish_tail(tail, options, decided)
        return not decided.skip

    def _decide(self, options: tuple[Any, ...]) -> _Decision:
        """Whether to skip, and the factor of all gradients, as the core would find them."""
        max_norm, skip_nonfinite, _, _, grad_scale, found_inf = options
        name = type(self).__name__.lower()
        scale = 1.0 if grad_scale is None else float(grad_scale)
        if not 0 < scale < math.inf:
            raise ValueError(f"{name}: grad_scale must be finite and above 0, got {scale}")
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        values = [grad.coalesce().values() if grad.layout == torch.sparse_coo else grad for grad in grads]
        skip = found_inf is not None and float(found_inf) != 0
        factor, norm = 1 / scale, math.nan
        if max_norm is not None or skip_nonfinite:
            norms = [_norm(value) for value in values]
            norm = math.nan if any(map(math.isnan, norms)) else math.hypot(*norms) / scale
            skip = skip or (skip_nonfinite and not all(bool(value.isfinite().all()) for value in values))
        if max_norm is not None and max_norm != math.inf:
            share = max_norm / (norm + 1e-6)
            factor *= 1.0 if share > 1 else share  # a nan stays
        return _Decision(factor, skip, norm)

    def _rest_of(self, tail: Tail) -> Tail:
        """The tail of the fused share: all else has been decided."""
        if tail.options is None or not tail.has_ema:
            return NO_TAIL
        first = next(param for group in self.param_groups for param in group["params"])
        rest = Tail()
        rest.prepare((None, False, False, tail.options[3], None, None), first.device, 0)
        return rest

    def _finish_tail(self, tail: Tail, options: tuple[Any, ...], decided: _Decision) -> None:
        if options[2]:
            self._zero_grads()
        tail.note(decided.skip, decided.norm)

    def _zero_grads(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.grad.zero_()

    def _begin_averages(self, apart: list[UnfusedParameter], tail: Tail) -> list[tuple[UnfusedParameter, Tensor]]:
        """The parameters with their moving averages, those that begin now as copies of them."""
        pairs = []
        for found in apart if tail.has_ema else ():
            averages = self._averages(self.param_groups[found.group], [found.param], tail) or []
            wanted = average_dtype(found.param)
            if averages[0].shape != found.param.shape or averages[0].dtype != wanted:
                where = self._where(self.param_groups[found.group], "emas", found.param)
                raise TypeError(f"{where} must be {wanted} of its parameter's shape, got {averages[0].dtype}")
            pairs.append((found, averages[0]))
        return pairs

    def _step_apart(self, apart: list[UnfusedParameter], factor: float) -> None:
        for number, group in enumerate(self.param_groups):
            params = [found.param for found in apart if found.group == number]
            if not params:
                continue
            grads = [p.grad if factor == 1 else p.grad * factor for p in params if p.grad is not None]
            # Adam's loop views complex numbers as pairs of real ones, which a lazy conjugate does not let it.
            grads = [grad.resolve_conj() if grad.is_complex() else grad for grad in grads]
            with torch.set_grad_enabled(self._flows(group)):
                self._step_by_torch(group, params, grads)

    def _step_fake(self, tail: Tail, apart: list[UnfusedParameter]) -> bool:
        """A step on tensors without memory: states are made, counts and versions move, nothing is computed."""
        self._check_unfused(tail, apart)
        self._begin_averages(apart, tail)
        groups = self._make_lists(tail, {id(found.param) for found in apart})
        self._keep_states(groups)
        for group in groups:
            bump_versions(group[0])
            for param in group[0]:
                if "step" in self.state.get(param, {}):
                    self.state[param]["step"].add_(1)
        self._step_apart(apart, 1.0)
        if tail.zero_grad:
            self._zero_grads()
        return True

    def _make_lists(self, tail: Tail, left_out: Set[int]) -> list[tuple[Any, ...]]:
        """The groups of a step as the core takes them, without the parameters of these ids."""
        raise NotImplementedError

    def _run_lists(self, groups: list[tuple[Any, ...]], tail: Tail) -> None:
        """Takes the step on such groups."""
        raise NotImplementedError

    def _keep_states(self, groups: list[tuple[Any, ...]]) -> None:
        """Puts the states that a step has made where they belong, if they are not there."""

    def _step_by_torch(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Takes the step of these parameters of the group by torch's functional form."""
        raise NotImplementedError


def _norm(value: Tensor) -> float:
    wide = torch.complex128 if value.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(value.detach(), dtype=wide))


def _scaled(grad: Tensor, factor: float) -> Tensor:
    """The gradient times the factor, in a dtype that loses nothing of it."""
    return (grad if grad.dtype == torch.float64 else grad.float()) * factor

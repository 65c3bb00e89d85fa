"""Parameters that torch's own loop updates because the kernels cannot, in the same step as the fused ones.

None of this runs unless the core has refused a step or a group is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from onepass._arguments import told
from onepass._memory import overlaps_itself
from onepass._versions import bump_versions
from onepass.optim._lists.kinds import hides_memory, is_fake, is_plain, is_sharded
from onepass.optim._lists.records import ListGroup
from onepass.optim._lists.run import run_lists
from onepass.optim._lists.tail import NOTHING, Tail, TailMemory
from onepass.optim._step.grouped import GroupedOptimizer
from onepass.optim._step.precision import mode_of, option
from onepass.optim._step.tailed import average_dtype

__all__ = ["PartlyFused", "UnfusedParameter"]


class UnfusedParameter(NamedTuple):
    """A parameter that the fused pass leaves out."""

    group: int
    """The number of its param group."""
    position: int
    """Its place in the group."""
    param: Tensor
    """The parameter itself."""
    why: str
    """The reason, for instance "complex parameter", "sparse gradient" or "differentiable"."""


class _Decision(NamedTuple):
    """What a tail decides about a step before the step is taken."""

    factor: float = 1.0
    skip: bool = False
    norm: float = math.nan


class PartlyFused(GroupedOptimizer):
    """Steps that divide the parameters between the kernels and torch's loop."""

    # What the core calls the update.
    _formula: ClassVar[str]
    # Whether torch's loop takes sparse gradients.
    _takes_sparse: ClassVar[bool] = False

    def unfused_parameters(self) -> list[UnfusedParameter]:
        """Lists the parameters that torch's own loop updates one by one, and why.

        They are complex, have a sparse gradient at the moment (`SGD`), belong to a group with
        ``differentiable=True``, or are of a tensor subclass that hides its memory. All others are updated together
        in one pass.

        Returns:
            One entry for each, in the order of the groups; empty if the fused pass takes all parameters.

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
        # Shards are updated by the kernels, by way of a twin (sharded.py).
        seen = [one for one in (param, grad) if one is not None and not is_fake(one) and not is_sharded(one)]
        hidden = [one for one in seen if hides_memory(one)]
        if not hidden:
            return None
        return "tensor of torch.func" if is_plain(hidden[0]) else f"tensor of class {type(hidden[0]).__name__}"

    def _needs_loop(self) -> bool:
        """Whether the next step is more than a call of the kernels. torch.compile runs this untraced."""
        return self._holds_shards() or bool(self._apart())

    # torch.compiler.assume_constant_result, which would load the whole compiler, sets this mark.
    _needs_loop._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _holds_shards(self) -> bool:
        """Whether a parameter, or the gradient of one, is a DTensor."""
        return any(
            is_sharded(param) or is_sharded(param.grad) for group in self.param_groups for param in group["params"]
        )

    def _apart(self) -> list[UnfusedParameter]:
        """The `unfused_parameters` that have a gradient."""
        return [found for found in self.unfused_parameters() if found.param.grad is not None]

    def _is_fake_step(self) -> bool:
        """True if all parameters or their gradients are fake; raises TypeError if only some are."""
        stepped = [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]
        fake = [is_fake(p) or is_fake(p.grad) for _, p in stepped]
        if any(fake) and not all(fake):
            group, real = stepped[fake.index(False)]
            raise TypeError(
                f"{self._where(group, 'params', real)} must be a fake tensor like others, got a real one"
            )
        return any(fake)

    def _check_unfused(self, tail: Tail, apart: list[UnfusedParameter]) -> None:
        """Raises ValueError or TypeError if torch's loop cannot do what is asked, or would stop halfway."""
        for number in {found.group: None for found in apart}:
            self._check_group(self.param_groups[number])
        for found in apart:
            group, param = self.param_groups[found.group], found.param
            where, what = self._where(group, "params", param), f"{found.why}, which torch's loop updates"
            asked = {name: value for name, value in self._fused_only(tail, group).items() if value}
            if asked:
                name, value = next(iter(asked.items()))
                raise ValueError(f"{where} must not come with {name} ({what}), got {name}={told(value)}")
            self._check_loop_tensors(group, param, where)
            self._check_loop(group, found, where)

    def _fused_only(self, tail: Tail, group: dict[str, Any]) -> dict[str, Any]:
        """The options that only the kernels implement, with their values."""
        asked: dict[str, Any] = {"rounding": mode_of(group) in ("stochastic", "kahan") and group["rounding"]}
        asked["master_weights"] = option(group, "master_weights")
        asked["state_dtype"] = option(group, "state_dtype")
        asked["state_format"] = option(group, "state_format")
        asked["telemetry"] = self.telemetry
        if group["differentiable"]:
            # No gradient would flow through these.
            for name in ("max_grad_norm", "skip_nonfinite", "zero_grad", "ema_decay", "grad_scale", "found_inf"):
                value = getattr(tail, name)
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
        # As in torch, gradients flow only if the optimizer was made with differentiable=True.
        return bool(group["differentiable"] and self.defaults.get("differentiable"))

    def _check_loop(self, group: dict[str, Any], found: UnfusedParameter, where: str) -> None:
        """Raises ValueError if the loop cannot step the parameter with this class's options."""

    def _check_loop_is_dense(self, found: UnfusedParameter, where: str) -> None:
        """Raises ValueError unless the loop can view complex numbers as pairs of real ones."""
        if found.param.grad is not None and found.param.grad.layout != torch.strided:
            raise ValueError(f"{where} must have a dense gradient, got layout {found.param.grad.layout}")
        for name, value in {"parameter": found.param, **self.state.get(found.param, {})}.items():
            if isinstance(value, Tensor) and value.is_conj():
                raise ValueError(
                    f"{where} must have memory of its own numbers, got a {name} that is a conjugate view"
                )

    def _begin_loop_states(self, group: dict[str, Any], param: Tensor) -> None:
        """Makes the states that torch's loop needs; raises ValueError if only some of them are there."""

    def _step_divided(self, tail: Tail, apart: list[UnfusedParameter]) -> bool:
        """Divides a step between kernels and torch's loop; with a tail this waits for a GPU.

        Returns whether the step was taken.
        """
        self._check_unfused(tail, apart)
        if tail.memory is not None:
            tail.memory.measure(0)  # a monitor may have asked; the loop measures nothing
        decided = _Decision() if tail.memory is None else self._decide(tail)
        if not decided.skip:
            rest = self._rest_of(tail)
            averages = self._begin_averages(apart, tail)
            for found in apart:
                self._begin_loop_states(self.param_groups[found.group], found.param)
            groups = self._make_lists(rest, {id(found.param) for found in apart})
            for group in groups if decided.factor != 1 else ():
                group.grads[:] = [_scaled(grad, decided.factor) for grad in group.grads]
            # The kernels first: they may still refuse.
            self._run_lists(groups, rest)
            self._step_apart(apart, decided.factor)
            decay = tail.ema_decay or 0.0
            for found, average in averages:
                average.mul_(decay).add_(found.param.detach().to(average.dtype), alpha=1 - decay)
        if tail.zero_grad:
            self._zero_grads()
        if tail.memory is not None:
            tail.memory.note(decided.skip, decided.norm)
        return not decided.skip

    def _decide(self, tail: Tail) -> _Decision:
        """Decides, as the core would, whether to skip and what to multiply all gradients by."""
        max_norm = tail.max_grad_norm
        name = type(self).__name__.lower()
        scale = 1.0 if tail.grad_scale is None else float(tail.grad_scale)
        if not 0 < scale < math.inf:
            raise ValueError(f"{name}: grad_scale must be finite and above 0, got {scale}")
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        values = [grad.coalesce().values() if grad.layout == torch.sparse_coo else grad for grad in grads]
        skip = tail.found_inf is not None and float(tail.found_inf) != 0
        factor, norm = 1 / scale, math.nan
        if max_norm is not None or tail.skip_nonfinite:
            norms = [_norm(value) for value in values]
            norm = math.nan if any(map(math.isnan, norms)) else math.hypot(*norms) / scale
            skip = skip or (tail.skip_nonfinite and not all(bool(value.isfinite().all()) for value in values))
        if max_norm is not None and max_norm != math.inf:
            share = max_norm / (norm + 1e-6)
            factor *= 1.0 if share > 1 else share  # a nan stays
        return _Decision(factor, skip, norm)

    def _rest_of(self, tail: Tail) -> Tail:
        """The tail of the fused share, once everything else is decided."""
        if not tail.has_ema:
            return NOTHING
        return Tail(ema_decay=tail.ema_decay, memory=TailMemory(self._device()))

    def _zero_grads(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.grad.zero_()

    def _begin_averages(self, apart: list[UnfusedParameter], tail: Tail) -> list[tuple[UnfusedParameter, Tensor]]:
        """Pairs the parameters with their moving averages; a new average begins as a copy of its parameter."""
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
            # Adam's loop views complex numbers as pairs of real ones, which fails for a lazy conjugate.
            grads = [grad.resolve_conj() if grad.is_complex() else grad for grad in grads]
            with torch.set_grad_enabled(self._flows(group)):
                self._step_by_torch(group, params, grads)

    def _step_fake(self, tail: Tail, apart: list[UnfusedParameter]) -> bool:
        """Takes a step on tensors without memory: makes states, advances counts and versions, computes nothing."""
        self._check_unfused(tail, apart)
        self._begin_averages(apart, tail)
        groups = self._make_lists(tail, {id(found.param) for found in apart})
        self._keep_states(groups)
        for group in groups:
            bump_versions(group.params)
            for param in group.params:
                if "step" in self.state.get(param, {}):
                    self.state[param]["step"].add_(1)
        self._step_apart(apart, 1.0)
        if tail.zero_grad:
            self._zero_grads()
        return True

    def _make_lists(self, tail: Tail, left_out: Set[int]) -> list[ListGroup]:
        """The groups of a step as the core takes them, without the parameters of these ids."""
        raise NotImplementedError

    def _run_lists(self, groups: list[ListGroup], tail: Tail) -> None:
        """Takes the step on such groups."""
        run_lists(self._formula, type(self).__name__.lower(), groups, tail)

    def _keep_states(self, groups: list[ListGroup]) -> None:
        """Stores the states that a step has made, where they are not stored yet."""

    def _step_by_torch(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Takes the step of these parameters of the group by torch's functional form."""
        raise NotImplementedError


def _norm(value: Tensor) -> float:
    wide = torch.complex128 if value.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(value.detach(), dtype=wide))


def _scaled(grad: Tensor, factor: float) -> Tensor:
    """The gradient times the factor, in a dtype that does not round it."""
    return (grad if grad.dtype == torch.float64 else grad.float()) * factor

"""Stochastic gradient descent, with momentum, Nesterov's variant and weight decay, in one pass over memory."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.sgd import sgd as torch_sgd

from onepass._arguments import told
from onepass.optim import _ops
from onepass.optim._lists.arguments import check_range, group_number, loop_number, rate_of
from onepass.optim._lists.records import ListGroup, StepOptions
from onepass.optim._lists.tail import NOTHING, Tail
from onepass.optim._step.codes import codes_name
from onepass.optim._step.fused import FusedOptimizer
from onepass.optim._step.grouped import ParamsT
from onepass.optim._step.partly_fused import UnfusedParameter
from onepass.optim._step.placeholders import unbegun
from onepass.optim._step.precision import is_coded, option, precision_of, state_dtype_of

__all__ = ["SGD"]

# torch's own, whatever replaces it later.
_torch_sgd: Any = torch_sgd


class SgdOptions(StepOptions):
    """The options of a group as csrc/bind/optim/sgd.cpp reads them."""

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool


class SGD(FusedOptimizer, torch.optim.SGD):
    r"""Takes steps of SGD, all parameters in one pass: 20 bytes per float32 parameter with momentum, 12 without.

    .. math::
        g_t &= \pm \nabla f(p_{t-1}) + \lambda p_{t-1} \\
        b_t &= \mu b_{t-1} + (1 - \tau) g_t, \qquad b_1 = g_1 \\
        p_t &= p_{t-1} - \gamma (g_t + \mu b_t) \text{ if nesterov else } p_{t-1} - \gamma b_t

    Without momentum :math:`p_t = p_{t-1} - \gamma g_t`. The computation is in float32 (in float64 for float64
    parameters), whatever the parameters are stored in.

    Args:
        params: Parameters or dicts of parameter groups; float32, float64, bfloat16 or float16, on CPU or CUDA.
            torch's loop updates complex ones and those with a sparse gradient, see `unfused_parameters`.
        lr: Learning rate (gamma), at least 0; a float or a one-element tensor. A CUDA tensor is read by the
            kernel, so that a schedule neither synchronises nor breaks a captured graph.
        momentum: Momentum factor (mu), at least 0.
        dampening: Dampening of momentum (tau); the first step of a parameter has none, as in torch.
        weight_decay: L2 penalty (lambda), at least 0.
        nesterov: Use Nesterov's momentum; needs momentum > 0 and dampening 0.
        maximize: Ascend instead of descend.
        foreach: Kept in the groups and not used: it chooses between torch's implementations.
        differentiable: Let gradients flow through the step, by torch's loop.
        fused: True: torch.amp.GradScaler leaves unscaling and skipping to the step, as with torch's class.
            Otherwise not used.
        capturable: Begin momentum buffers with zeros, so that they hold values even if the GPU skips the first
            step; dampening must be 0.
        max_grad_norm: Clip the 2-norm of all gradients together to this; one more read of the gradients.
        skip_nonfinite: Skip a step, and everything it would change, if a gradient is not finite.
        ema_decay: Keep moving averages of the parameters with this decay, in [0, 1), see `ema_parameters`.
        telemetry: As for `Adam`.
        state_dtype: As for `Adam`, for the momentum buffers.
        rounding: As for `Adam`; "stochastic" adds the state ``step``, on which the draws depend.
        master_weights: As for `Adam`.
        seed: As for `Adam`.
        state_format: As for `Adam`; "8bit" adds the state ``step``, on which the rounding depends.

    Raises:
        ValueError: An option is out of range.
        RuntimeError: fused=True comes with foreach or differentiable.
        TypeError: An option is of another kind than its default.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = SGD([weight], lr=0.1, momentum=0.9)
        >>> for _ in range(2):
        ...     weight.grad = torch.tensor([1.0])
        ...     optimizer.step()
        >>> weight.data
        tensor([0.7100])

    Differs from torch: gradients may have another floating dtype than their parameter; momentum buffers loaded as
    float32 stay float32 for bfloat16 and float16 parameters; options are checked again at each step. A parameter's
    first step takes its buffer from the gradient also if it comes later than the first step of others (torch's
    fused SGD raises TypeError), or after a step that GradScaler skipped (torch's fused SGD then reads memory that
    was never written).

    Source: Sutskever et al. 2013; torch.optim.SGD.
    """

    _formula: ClassVar[str] = "sgd"
    _takes_sparse: ClassVar[bool] = True
    _state_names: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    _saved_options: ClassVar[tuple[str, ...]] = ("lr", "momentum", "dampening", "weight_decay")
    _numbers: ClassVar[tuple[str, ...]] = _saved_options
    _told_options: ClassVar[tuple[str, ...]] = ("nesterov", "maximize")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        max_grad_norm: float | None = None,
        skip_nonfinite: bool = False,
        ema_decay: float | None = None,
        telemetry: bool = False,
        state_dtype: torch.dtype | None = None,
        rounding: str = "nearest",
        master_weights: bool = False,
        seed: int | None = None,
        state_format: str | None = None,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        if capturable:  # torch's groups, and so its flattened checkpoints, have no such key
            defaults["capturable"] = True
        super().__init__(
            params,
            defaults,
            max_grad_norm=max_grad_norm,
            skip_nonfinite=skip_nonfinite,
            ema_decay=ema_decay,
            telemetry=telemetry,
            state_dtype=state_dtype,
            rounding=rounding,
            master_weights=master_weights,
            seed=seed,
            state_format=state_format,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        name = type(self).__name__
        check_range(name, "lr", group["lr"], 0)
        check_range(name, "momentum", group["momentum"], 0)
        check_range(name, "dampening", group["dampening"], -float("inf"))
        check_range(name, "weight_decay", group["weight_decay"], 0)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"{name}: nesterov must come with momentum > 0 and dampening 0, got momentum "
                f"{group['momentum']} and dampening {group['dampening']}"
            )
        self._check_states(group)
        if group.get("capturable") and group["dampening"] != 0:
            raise ValueError(f"{name}: dampening must be 0 with capturable=True, got {group['dampening']}")

    def _check_states(self, group: dict[str, Any]) -> None:
        if is_coded(group) and group["momentum"] == 0:
            raise ValueError(
                f"{type(self).__name__}: state_format must be None with momentum=0 (there is no state), got "
                f"{told(group['state_format'])}"
            )
        if option(group, "state_dtype") is not None and group["momentum"] == 0:
            raise ValueError(
                f"{type(self).__name__}: state_dtype must be None with momentum=0 (there is no state), got "
                f"{option(group, 'state_dtype')}"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fills in the options that checkpoints of older torch versions lack."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("nesterov", False)
            group.setdefault("maximize", False)
            if not group.get("capturable", True):
                del group["capturable"]

    def _options(self, group: dict[str, Any], first: int) -> SgdOptions:
        name = type(self).__name__.lower()
        return {
            "lr": rate_of(name, group),
            "momentum": group_number(name, group, "momentum"),
            "dampening": group_number(name, group, "dampening"),
            "weight_decay": group_number(name, group, "weight_decay"),
            "nesterov": bool(group["nesterov"]),
            "maximize": bool(group["maximize"]),
            "capturable": bool(group.get("capturable")),
            "precision": precision_of(type(self).__name__, group, first),
        }

    def _make_lists(self, tail: Tail, left_out: Set[int]) -> list[ListGroup]:
        groups = []
        for position, group in self._numbered_groups():
            params: list[Tensor] = []
            grads: list[Tensor] = []
            buffers: list[Tensor] = []
            self._gradients(group, params, grads, left_out)
            first = [False] * len(params)
            if group["momentum"] != 0:
                first = [not self._has_buffer(p) for p in params]
                for i, param in enumerate(params):
                    if not first[i]:
                        buffers.append(self._listed_state(group, param, "momentum_buffer", "momentum_buffer_list"))
                        continue
                    # On a GPU only the kernel knows whether this step is taken.
                    first[i] = not (group.get("capturable") or (tail.may_skip and param.is_cuda))
                    buffers.append(self._new_buffer(group, param, first[i]))
            options = self._options(group, position)
            states = {"momentum_buffer_list": buffers} if group["momentum"] != 0 else {}
            groups.append(self._list_group(group, params, grads, options, states, tail, left_out, first=first))
        return groups

    def _run_lists(self, groups: list[ListGroup], tail: Tail) -> None:
        super()._run_lists(groups, tail)
        # Only now do the buffers hold values: a rejected step leaves none behind.
        self._keep_states(groups)

    def _keep_states(self, groups: list[ListGroup]) -> None:
        for group in groups:
            if group.states and group.scales is None:  # there are none without momentum, codes are kept already
                for param, buffer in zip(group.params, group.states["momentum_buffer_list"], strict=True):
                    self.state[param]["momentum_buffer"] = buffer

    def _check_loop(self, group: dict[str, Any], found: UnfusedParameter, where: str) -> None:
        grad, buffer = found.param.grad, self.state.get(found.param, {}).get("momentum_buffer")
        if grad is None or grad.layout != torch.sparse_coo:
            if grad is not None and buffer is not None and group["momentum"] != 0 and buffer.is_sparse:
                raise ValueError(f"{where} must have a sparse gradient like its momentum_buffer, got a dense one")
            return
        if group["weight_decay"] != 0:
            raise ValueError(
                f"{where} must not come with weight_decay (sparse gradient), got {group['weight_decay']}"
            )
        if group["nesterov"] and buffer is not None and not buffer.is_sparse:
            raise ValueError(f"{where} must not come with nesterov and a dense momentum_buffer (sparse gradient)")

    def _step_by_torch(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        buffers = [self.state.get(param, {}).get("momentum_buffer") for param in params]
        given = {name: loop_number(group, name) for name in self._numbers}
        _torch_sgd(
            params,
            grads,
            buffers,
            foreach=False,
            fused=False,
            has_sparse_grad=any(grad.is_sparse for grad in grads),
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            **given,
        )
        if group["momentum"] != 0:
            for param, buffer in zip(params, buffers, strict=True):
                self.state[param]["momentum_buffer"] = buffer

    def _begin_states(self, group: dict[str, Any], params: list[Tensor]) -> None:
        self._rounding_counts(group, params, NOTHING)
        for param in params if group["momentum"] != 0 else ():
            if is_coded(group):
                self._make_zero_states(group, param, self._state_names)
                continue
            self.state[param]["momentum_buffer"] = unbegun(param, state_dtype_of(param, group))

    def _new_buffer(self, group: dict[str, Any], param: Tensor, written: bool) -> Tensor:
        """Makes a momentum buffer: memory that the step writes, or zeros that it reads as the buffer before it."""
        dtype = state_dtype_of(param, group)
        if written and is_coded(group):
            self._make_zero_states(group, param, self._state_names)
            return self._listed_state(group, param, "momentum_buffer", "momentum_buffer_list")
        if written:
            return torch.empty_like(param, dtype=dtype, requires_grad=False)
        if group["dampening"] != 0:
            where = self._where(group, "params", param)
            raise ValueError(
                f"{where} must have taken a step before, or dampening be 0, where a GPU may skip the step, got "
                f"dampening {group['dampening']}"
            )
        if is_coded(group):
            return self._new_buffer(group, param, True)
        return torch.zeros_like(param, dtype=dtype, requires_grad=False)

    def _has_buffer(self, param: Tensor) -> bool:
        own = self.state.get(param, {})
        return any(own.get(name) is not None for name in ("momentum_buffer", codes_name("momentum_buffer")))

    def _step_compiled(self) -> None:
        for group in self.param_groups:
            lists: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            self._init_group(group, *lists)
            _ops.call_step(
                "sgd_",
                *lists,
                lr=group["lr"],
                momentum=group["momentum"],
                dampening=group["dampening"],
                weight_decay=group["weight_decay"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
            )

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        momentum_buffers: list[Tensor],
    ) -> bool:
        """Appends a group's tensors to the lists, for torch.compile, which runs this function untraced.

        A compiled step cannot treat a parameter's first step differently from the next ones; a buffer of zeros
        gives the same result as torch's first step as long as there is no dampening.
        """
        self._gradients(group, params, grads)
        if group["momentum"] == 0:
            return False
        for param in params:
            if self.state[param].get("momentum_buffer") is None:
                if group["dampening"] != 0:
                    raise ValueError(
                        "sgd: dampening must be 0 in a step that is compiled before the first eager one, got "
                        f"{group['dampening']}; take one step outside torch.compile first"
                    )
                self.state[param]["momentum_buffer"] = torch.zeros_like(
                    param, dtype=state_dtype_of(param, group), memory_format=torch.preserve_format
                )
            momentum_buffers.append(self._relaid_state(group, param, "momentum_buffer", "momentum_buffer_list"))
        return False

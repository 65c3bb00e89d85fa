"""Adam, with L2 or decoupled weight decay and AMSGrad, in one pass over memory."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam
from torch.optim.adamw import adamw as torch_adamw

from onepass._arguments import told
from onepass.optim import _ops
from onepass.optim._lists.arguments import (
    check_betas,
    check_range,
    group_number,
    loop_number,
    loop_pair,
    number,
    pair_of_numbers,
    rate_of,
)
from onepass.optim._lists.records import ListGroup, StepOptions
from onepass.optim._lists.tail import Tail
from onepass.optim._step.codes import codes_name
from onepass.optim._step.fused import FusedOptimizer
from onepass.optim._step.grouped import ParamsT
from onepass.optim._step.partly_fused import UnfusedParameter
from onepass.optim._step.precision import LOW_STATES, precision_of
from onepass.optim._step.stateful import count_on_device, step_count

__all__ = ["Adam"]

# torch's own, whatever replaces them later.
_torch_adam: Any = torch_adam
_torch_adamw: Any = torch_adamw


class AdamOptions(StepOptions):
    """The options of a group as csrc/bind/optim/adam.cpp reads them."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    amsgrad: bool
    maximize: bool
    decoupled_weight_decay: bool


_Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


class Adam(FusedOptimizer, torch.optim.Adam):
    r"""Takes steps of Adam, all parameters in one pass: 28 bytes read and written per float32 parameter.

    .. math::
        g_t &= \pm \nabla f(p_{t-1}) + \lambda p_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        x_t &= \max(x_{t-1}, v_t) \text{ if amsgrad else } v_t \\
        p_t &= p_{t-1} - \frac{\gamma}{1 - \beta_1^t} \,
            \frac{m_t}{\sqrt{x_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    The computation is in float32 (in float64 for float64 parameters), whatever the parameters are stored in.
    Options from max_grad_norm on are ours; those from state_dtype on belong to param groups.

    Args:
        params: Parameters or dicts of parameter groups; float32, float64, bfloat16 or float16, on CPU or CUDA.
            torch's loop updates complex ones, see `unfused_parameters`.
        lr: Learning rate (gamma), at least 0; a float or a one-element tensor. A CUDA tensor is read by the
            kernel, so that a schedule neither synchronises nor breaks a captured graph.
        betas: Decay of the two moments (beta1, beta2), each in [0, 1).
        eps: Added to the denominator against division by zero, at least 0.
        weight_decay: L2 penalty (lambda), at least 0.
        amsgrad: Divide by the largest second moment so far; one more state, 36 bytes a parameter.
        foreach: Kept in the groups and not used: it chooses between torch's implementations.
        maximize: Ascend instead of descend.
        capturable: Keep the step count on the GPU, so that a CUDA graph of the step can be captured. Needs CUDA
            parameters.
        differentiable: Let gradients flow through the step, by torch's loop.
        fused: True: torch.amp.GradScaler leaves unscaling and skipping to the step, as with torch's class.
            Otherwise not used.
        decoupled_weight_decay: Decay as AdamW does.
        max_grad_norm: Clip the 2-norm of all gradients together to this; one more read of the gradients.
        skip_nonfinite: Skip a step, and everything it would change, if a gradient is not finite.
        ema_decay: Keep moving averages of the parameters with this decay, in [0, 1), see `ema_parameters`.
        telemetry: Measure norms and lost updates of each group in the same pass, see `statistics`.
        state_dtype: torch.float32 or torch.bfloat16 for all moments; None: the parameter's dtype, and float32 with
            master_weights.
        rounding: How an update is rounded that is smaller than the spacing of a bfloat16 or float16 parameter.
            "nearest" loses it; "stochastic" rounds up with the probability that keeps the mean, in 16-bit states,
            too; "kahan" keeps the rounding error in a state of the parameter's dtype and adds it at the next step.
        master_weights: Train bfloat16 and float16 parameters as float32 numbers, of which a bfloat16 parameter is
            the upper half and a float16 parameter the rounded value. This takes 26 bytes per bfloat16 parameter
            with a bfloat16 gradient, and gives the same bits as float32 training with those gradients.
        seed: The seed of stochastic rounding, 0 to 2**64 - 1; None: drawn from torch's generator. The draws depend
            only on the seed, the step count, the parameter's number and the element's place in memory.
        state_format: None: moments are floating point. "8bit": codes in blocks of 32 elements, 2.25 bytes for both
            moments of a parameter, see docs/precision.md. Needs dense CPU parameters of at most 32 bits.

    Raises:
        ValueError: An option is out of range.
        RuntimeError: fused=True comes with foreach or differentiable.
        TypeError: An option is of another kind than its default.

    Differs from torch: gradients may have another floating dtype than their parameter; states loaded as float32
    stay float32 for bfloat16 and float16 parameters; options are checked again at each step.

    Example:
        >>> import torch
        >>> from onepass.optim import Adam
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = Adam([weight], lr=0.1)
        >>> weight.grad = torch.tensor([2.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([0.9000])

    Source: Kingma and Ba 2015, algorithm 1; Reddi et al. 2018, algorithm 2; torch.optim.Adam.
    """

    _formula: ClassVar[str] = "adam"
    _state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    _saved_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "weight_decay")
    _numbers: ClassVar[tuple[str, ...]] = ("lr", "eps", "weight_decay")
    _pairs: ClassVar[tuple[str, ...]] = ("betas",)
    _told_options: ClassVar[tuple[str, ...]] = ("amsgrad", "maximize", "decoupled_weight_decay")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
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
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
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
        check_betas(name, group["betas"])
        check_range(name, "eps", group["eps"], 0)
        check_range(name, "weight_decay", group["weight_decay"], 0)
        if group.get("step") is not None:  # apex counts in the group
            number(name, "step", group["step"])
        if not group.get("bias_correction", True):
            raise ValueError(f"{name}: bias_correction must be True (apex can leave it out), got False")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fills in options that checkpoints of older torch versions lack; takes apex's count from the group."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.pop("bias_correction", None)
            counted = group.pop("step", None)
            if counted is not None:
                for param in group["params"]:
                    if self.state.get(param):
                        self.state[param].setdefault("step", float(counted))
            for option in ("amsgrad", "maximize", "capturable"):
                group.setdefault(option, False)
            group.setdefault("decoupled_weight_decay", self.defaults["decoupled_weight_decay"])
            for param in group["params"]:
                own = self.state.get(param, {})
                if "step" in own and not isinstance(own["step"], Tensor):
                    own["step"] = step_count(param, group["capturable"], float(own["step"]))

    def _options(self, group: dict[str, Any], first: int) -> AdamOptions:
        name = type(self).__name__.lower()
        beta1, beta2 = pair_of_numbers(name, group, "betas")
        return {
            "lr": rate_of(name, group),
            "beta1": beta1,
            "beta2": beta2,
            "eps": group_number(name, group, "eps"),
            "weight_decay": group_number(name, group, "weight_decay"),
            "amsgrad": bool(group["amsgrad"]),
            "maximize": bool(group["maximize"]),
            "decoupled_weight_decay": bool(group["decoupled_weight_decay"]),
            "capturable": bool(group["capturable"]),
            "precision": precision_of(type(self).__name__, group, first),
        }

    def _check_capture(self) -> None:
        if not all(group["capturable"] for group in self.param_groups):
            raise RuntimeError(
                f"{type(self).__name__}: capturable must be True in every group while a CUDA graph is captured "
                "(the step count would be baked in), got False"
            )

    def _make_lists(self, tail: Tail, left_out: Set[int]) -> list[ListGroup]:
        groups = []
        for first, group in self._numbered_groups():
            lists: _Lists = ([], [], [], [], [], [])
            self._gradients(group, lists[0], lists[1], left_out)
            self._add_states(group, *lists)
            if tail.may_skip:
                count_on_device(self.state, lists[0], lists[5])
            states = {"exp_avgs": lists[2], "exp_avg_sqs": lists[3]}
            if group["amsgrad"]:
                states["max_exp_avg_sqs"] = lists[4]
            options = self._options(group, first)
            groups.append(
                self._list_group(group, lists[0], lists[1], options, states, tail, left_out, state_steps=lists[5])
            )
        return groups

    def _check_loop(self, group: dict[str, Any], found: UnfusedParameter, where: str) -> None:
        if group["capturable"] and not found.param.is_cuda:
            raise ValueError(f"{where} must be on CUDA with capturable=True, got {found.param.device}")
        self._check_loop_is_dense(found, where)
        own = self.state.get(found.param, {})
        if "step" in own:
            count = own["step"]
            if not isinstance(count, Tensor):
                raise TypeError(f"{where} must have a state step that is a tensor, got {told(count)}")
            if not (count.numel() == 1 and count.is_floating_point()):
                what = f"{count.numel()} of {count.dtype}"
                raise ValueError(f"{where} must have a state step of one number, got {what}")

    def _begin_loop_states(self, group: dict[str, Any], param: Tensor) -> None:
        self._add_states(group, [param], [], [], [], [], [])

    def _step_by_torch(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        lists: _Lists = (params, grads, [], [], [], [])
        self._add_states(group, *lists)
        # As the kernels do, take gradients of other dtypes; the loop does not.
        grads[:] = [grad.to(moment.dtype) for grad, moment in zip(grads, lists[2], strict=True)]
        beta1, beta2 = loop_pair(group, "betas")
        (_torch_adamw if group["decoupled_weight_decay"] else _torch_adam)(
            *lists,
            foreach=False,
            fused=False,
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            has_complex=any(param.is_complex() for param in params),
            amsgrad=group["amsgrad"],
            beta1=beta1,
            beta2=beta2,
            maximize=group["maximize"],
            **{name: loop_number(group, name) for name in self._numbers},
        )

    def _step_compiled(self) -> None:
        for group in self.param_groups:
            lists: _Lists = ([], [], [], [], [], [])
            self._init_group(group, *lists)
            beta1, beta2 = group["betas"]
            _ops.call_step(
                "adam_",
                *lists,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=group["amsgrad"],
                maximize=group["maximize"],
                decoupled_weight_decay=group["decoupled_weight_decay"],
            )

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        state_steps: list[Tensor],
    ) -> bool:
        """Appends a group's tensors to the lists, making the states of parameters that have none.

        The name and form are torch's: torch.compile runs this function instead of tracing it.
        """
        self._gradients(group, params, grads)
        self._add_states(group, params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)
        return False

    def _add_states(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        state_steps: list[Tensor],
    ) -> None:
        self._begin_states(group, params)
        for param in params:
            own = self.state[param]
            if group["amsgrad"] and not own.keys() & {"max_exp_avg_sq", codes_name("max_exp_avg_sq")}:
                raise ValueError(
                    f"{self._where(group, 'params', param)} must have the state max_exp_avg_sq with "
                    "amsgrad=True, got a state that was made without it"
                )
            exp_avgs.append(self._listed_state(group, param, "exp_avg", "exp_avgs"))
            exp_avg_sqs.append(self._listed_state(group, param, "exp_avg_sq", "exp_avg_sqs"))
            if group["amsgrad"]:
                max_exp_avg_sqs.append(self._listed_state(group, param, "max_exp_avg_sq", "max_exp_avg_sqs"))
            state_steps.append(self._state_of(group, param, "step", "state_steps"))

    def _wanted_states(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._state_names[: 3 if group["amsgrad"] else 2]

    def _begin_states(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            own = self.state[param]
            if own.keys() - {"ema", *LOW_STATES}:
                continue
            own["step"] = step_count(param, group["capturable"], 0.0)
            self._make_zero_states(group, param, self._wanted_states(group))

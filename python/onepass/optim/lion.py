"""Lion: steps by the sign of an interpolated momentum, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, ClassVar

import torch
from torch import Tensor

from onepass._arguments import check_lists
from onepass.optim import _ops
from onepass.optim._lists.arguments import (
    check_betas,
    check_range,
    group_number,
    loop_number,
    loop_pair,
    number,
    number_or_tensor,
    pair_of_numbers,
    rate_of,
)
from onepass.optim._lists.records import ListGroup, StepOptions
from onepass.optim._lists.run import run_lists
from onepass.optim._lists.tail import NOTHING, Tail
from onepass.optim._step.fused import FusedOptimizer
from onepass.optim._step.grouped import ParamsT
from onepass.optim._step.partly_fused import UnfusedParameter
from onepass.optim._step.precision import LOW_STATES, precision_of

__all__ = ["Lion", "lion"]


class LionOptions(StepOptions):
    """The options of a group as csrc/bind/optim/lion.cpp reads them."""

    beta1: float
    beta2: float
    weight_decay: float
    maximize: bool


class Lion(FusedOptimizer):
    r"""Updates all parameters by Lion in one pass: 20 bytes read and written per float32 parameter.

    .. math::
        g_t &= \pm \nabla f(p_{t-1}) \\
        p_t &= (1 - \gamma \lambda) p_{t-1} - \gamma \, \text{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t

    Each element moves by the learning rate, whatever the size of its gradient, so the authors advise a rate 3 to
    10 times smaller than AdamW's and a decay larger by as much. There is one state, half of Adam's memory.
    Arithmetic is float32 (float64 for float64 parameters), whatever the parameters are stored in.

    Args:
        params: Parameters or dicts of parameter groups; float32, float64, bfloat16 or float16, on CPU or CUDA.
            Complex ones go to a loop of torch's operations, see `unfused_parameters`.
        lr: Learning rate (gamma), at least 0; a float or a one-element tensor. A CUDA tensor is read by the
            kernel, so that a schedule neither synchronises nor breaks a captured graph.
        betas: Weight of the momentum in the update, and decay of the momentum (beta1, beta2), each in [0, 1).
        weight_decay: Decoupled decay (lambda), at least 0: each step scales a parameter by 1 - lr * weight_decay.
        maximize: Ascend instead of descend.
        foreach: As for `Adam`.
        capturable: Keep the step count, which stochastic rounding draws by, on the GPU, so that a CUDA graph of
            the step can be captured. Needs CUDA parameters.
        differentiable: Let gradients flow through the step (none flows through the sign), by torch's operations.
        fused: As for `Adam`.
        max_grad_norm: As for `Adam`.
        skip_nonfinite: As for `Adam`.
        ema_decay: As for `Adam`.
        telemetry: As for `Adam`.
        state_dtype: As for `Adam`.
        rounding: As for `Adam`.
        master_weights: As for `Adam`.
        seed: As for `Adam`.
        state_format: As for `Adam`.

    Raises:
        ValueError: An option is out of range.
        RuntimeError: fused=True comes with foreach or differentiable.
        TypeError: An option is of another kind than its default.

    Differs from torch: torch has no Lion. Names, defaults and states are those of the authors' code, whose
    checkpoints load. There the sign of a nan is 0, so that a parameter whose momentum is nan silently stops
    moving; here it becomes nan.

    Example:
        >>> import torch, onepass
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = onepass.optim.Lion(model.parameters(), lr=1e-4, weight_decay=0.1)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()

    Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2 (arXiv 2302.06675).
    """

    _formula: ClassVar[str] = "lion"
    _state_names: ClassVar[tuple[str, ...]] = ("exp_avg",)
    _saved_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "weight_decay")
    _numbers: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")
    _pairs: ClassVar[tuple[str, ...]] = ("betas",)
    _told_options: ClassVar[tuple[str, ...]] = ("maximize",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
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
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
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
        check_range(name, "weight_decay", group["weight_decay"], 0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fills in what checkpoints of the authors' code lack."""
        super().__setstate__(state)
        for group in self.param_groups:
            for option in ("maximize", "capturable"):
                group.setdefault(option, False)

    def _options(self, group: dict[str, Any], first: int) -> LionOptions:
        name = type(self).__name__.lower()
        beta1, beta2 = pair_of_numbers(name, group, "betas")
        return {
            "lr": rate_of(name, group),
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": group_number(name, group, "weight_decay"),
            "maximize": bool(group["maximize"]),
            "capturable": bool(group["capturable"]),
            "precision": precision_of(type(self).__name__, group, first),
        }

    def _make_lists(self, tail: Tail, left_out: Set[int]) -> list[ListGroup]:
        groups = []
        for first, group in self._numbered_groups():
            lists: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            self._gradients(group, lists[0], lists[1], left_out)
            self._add_states(group, lists[0], lists[2])
            options, states = self._options(group, first), {"exp_avgs": lists[2]}
            groups.append(self._list_group(group, lists[0], lists[1], options, states, tail, left_out))
        return groups

    def _check_loop(self, group: dict[str, Any], found: UnfusedParameter, where: str) -> None:
        self._check_loop_is_dense(found, where)

    def _begin_loop_states(self, group: dict[str, Any], param: Tensor) -> None:
        self._add_states(group, [param], [])

    def _step_by_torch(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        exp_avgs: list[Tensor] = []
        self._add_states(group, params, exp_avgs)
        lr, weight_decay = loop_number(group, "lr"), loop_number(group, "weight_decay")
        beta1, beta2 = loop_pair(group, "betas")
        for param, grad, exp_avg in zip(params, grads, exp_avgs, strict=True):
            p, m = (torch.view_as_real(one) if one.is_complex() else one for one in (param, exp_avg))
            g = torch.view_as_real(grad) if grad.is_complex() else grad.to(m.dtype)
            g = -g if group["maximize"] else g
            # m is written below; its gradient needs it as it was.
            update = m.clone() * beta1 + g * (1 - beta1)
            # torch.sign makes 0 of a nan.
            direction = torch.where(update.isnan(), update, update.sign())
            p.mul_(1 - lr * weight_decay).sub_(direction * lr)
            m.mul_(beta2).add_(g * (1 - beta2))

    def _step_compiled(self) -> None:
        for group in self.param_groups:
            lists: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            self._init_group(group, *lists)
            beta1, beta2 = group["betas"]
            _ops.call_step(
                "lion_",
                *lists,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                maximize=group["maximize"],
            )

    def _init_group(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor]
    ) -> bool:
        """Appends a group's tensors to the lists, making the states of parameters that have none.

        The name and form are those of torch's classes: torch.compile runs this function instead of tracing it.
        """
        self._gradients(group, params, grads)
        self._add_states(group, params, exp_avgs)
        return False

    def _add_states(self, group: dict[str, Any], params: list[Tensor], exp_avgs: list[Tensor]) -> None:
        self._begin_states(group, params)
        exp_avgs += [self._listed_state(group, param, "exp_avg", "exp_avgs") for param in params]

    def _begin_states(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            own = self.state[param]
            if not own.keys() - {"ema", *LOW_STATES}:
                self._make_zero_states(group, param, self._state_names)
        self._rounding_counts(group, params, NOTHING)


def lion(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    maximize: bool,
) -> None:
    r"""Takes one step of Lion.

    .. math::
        g &\leftarrow \pm g \\
        p &\leftarrow (1 - \gamma \lambda) p - \gamma \, \text{sign}(\beta_1 m + (1 - \beta_1) g) \\
        m &\leftarrow \beta_2 m + (1 - \beta_2) g

    Args:
        params: Tensors to update, of any shape; float32, float64, bfloat16 or float16.
        grads: Their gradients, of the same shapes; each of any of these dtypes.
        exp_avgs: The momenta (m), of the parameters' shapes and dtypes (or float32).
        lr: Learning rate (gamma), at least 0.
        beta1: Weight of the momentum in the update, in [0, 1).
        beta2: Decay of the momentum, in [0, 1).
        weight_decay: Decoupled decay (lambda), at least 0.
        maximize: Ascend instead of descend.

    Raises:
        ValueError: A shape, device, layout or hyper-parameter is not as above, or tensors share memory.
        TypeError: An entry is no tensor or has another dtype.

    Example:
        >>> import torch, onepass
        >>> p, g, m = torch.ones(3), torch.tensor([1.0, 0.0, -1.0]), torch.zeros(3)
        >>> options = {"lr": 0.5, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "maximize": False}
        >>> onepass.optim.functional.lion([p], [g], [m], **options)
        >>> p.tolist()
        [0.5, 1.0, 1.5]

    Source: Chen et al. 2023, algorithm 2.
    """
    options: LionOptions = {
        "lr": number_or_tensor("lion", "lr", lr),
        "beta1": number("lion", "beta1", beta1),
        "beta2": number("lion", "beta2", beta2),
        "weight_decay": number("lion", "weight_decay", weight_decay),
        "maximize": bool(maximize),
        "capturable": False,  # nothing is counted
        "precision": None,
    }
    try:
        group = ListGroup(list(params), list(grads), options, {"exp_avgs": list(exp_avgs)})
    except TypeError:
        check_lists("lion", "tensors or arrays", params=params, grads=grads, exp_avgs=exp_avgs)
        raise
    run_lists("lion", "lion", [group])


_ops.register_step(
    "lion_",
    "Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs",
    "float beta1, float beta2, float weight_decay, bool maximize",
    lion,
)

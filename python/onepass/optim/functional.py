"""The updates of the optimizers on explicit lists, as in torch's functional API.

Each call checks every list before it writes anything: a rejected call has changed nothing. Entries are torch
tensors or numpy arrays, on one device or several; one kernel call updates all tensors of one device and dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onepass._arguments import check_lists
from onepass.optim import _ops
from onepass.optim._lists.arguments import number, number_or_tensor
from onepass.optim._lists.records import ListGroup
from onepass.optim._lists.run import run_lists
from onepass.optim.adam import AdamOptions
from onepass.optim.lion import lion
from onepass.optim.sgd import SgdOptions

__all__ = [
    "adam",
    "adamw",
    "lion",
    "sgd",
]

# What the lists are of, in errors.
_OF = "tensors or arrays"


def sgd(
    params: Sequence[Any],
    grads: Sequence[Any],
    momentum_buffer_list: list[Any],
    *,
    weight_decay: float,
    momentum: float,
    lr: float | Tensor,
    dampening: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    r"""Takes one step of stochastic gradient descent.

    .. math::
        g &\leftarrow \pm g + \lambda p \\
        b &\leftarrow \mu b + (1 - \tau) g \quad (b \leftarrow g \text{ where it is None}) \\
        p &\leftarrow p - \gamma (g + \mu b) \text{ if nesterov else } p - \gamma b

    Args:
        params: Tensors to update, of any shape; float32, float64, bfloat16 or float16.
        grads: Their gradients, of the same shapes; each of any of these dtypes.
        momentum_buffer_list: With momentum one buffer for each parameter, of its shape and of its dtype (or
            float32); None for a parameter that has none yet, and the new buffer replaces it. Without momentum the
            list is not used, as in torch, and may be empty.
        weight_decay: L2 penalty (lambda), at least 0.
        momentum: Momentum factor (mu), at least 0; 0 uses no buffers.
        lr: Learning rate (gamma), at least 0.
        dampening: Dampening of momentum (tau).
        nesterov: Use Nesterov's momentum.
        maximize: Ascend instead of descend.

    Raises:
        ValueError: A shape, device, layout or hyper-parameter is not as above, or tensors share memory.
        TypeError: An entry is not a tensor or has another dtype.

    Example:
        >>> import numpy as np
        >>> from onepass.optim import functional
        >>> weight, grad = np.array([1.0, 2.0]), np.array([1.0, -1.0])
        >>> options = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
        >>> functional.sgd([weight], [grad], [], lr=0.5, maximize=False, **options)
        >>> weight
        array([0.5, 2.5])

    Differs from torch: entries may be numpy arrays; gradients may have another dtype than their parameter.

    Source: torch.optim.sgd.sgd.
    """
    options: SgdOptions = {
        "lr": number_or_tensor("sgd", "lr", lr),
        "momentum": number("sgd", "momentum", momentum),
        "dampening": number("sgd", "dampening", dampening),
        "weight_decay": number("sgd", "weight_decay", weight_decay),
        "nesterov": bool(nesterov),
        "maximize": bool(maximize),
        "capturable": False,  # nothing is counted
        "precision": None,
    }
    try:
        group = ListGroup(list(params), list(grads), options)
        buffers = list(momentum_buffer_list)
    except TypeError:
        check_lists("sgd", _OF, params=params, grads=grads, momentum_buffer_list=momentum_buffer_list)
        raise
    if options["momentum"] != 0:
        group.first = [buffer is None for buffer in buffers]
        # A buffer for each parameter that needs one.
        filled = [
            _empty_like(group.params[i]) if buffer is None and i < len(group.params) else buffer
            for i, buffer in enumerate(buffers)
        ]
        group.states = {"momentum_buffer_list": filled}
    run_lists("sgd", "sgd", [group])
    if group.states:
        momentum_buffer_list[:] = group.states["momentum_buffer_list"]


def adam(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_avg_sqs: Sequence[Any],
    max_exp_avg_sqs: Sequence[Any],
    state_steps: Sequence[Any],
    *,
    amsgrad: bool,
    beta1: float,
    beta2: float,
    lr: float | Tensor,
    weight_decay: float,
    eps: float,
    maximize: bool,
    decoupled_weight_decay: bool = False,
    capturable: bool = False,
) -> None:
    r"""Takes one step of Adam.

    .. math::
        g &\leftarrow \pm g + \lambda p \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \frac{\gamma}{1 - \beta_1^t} \,
            \frac{m}{\sqrt{x} / \sqrt{1 - \beta_2^t} + \epsilon},
            \qquad x = \max(x, v) \text{ if amsgrad else } v

    Args:
        params: Tensors to update, of any shape; float32, float64, bfloat16 or float16.
        grads: Their gradients, of the same shapes; each of any of these dtypes.
        exp_avgs: First moments (m), of the parameters' shapes and dtypes (or float32).
        exp_avg_sqs: Second moments (v), likewise.
        max_exp_avg_sqs: Largest second moments (x), likewise; without amsgrad not used, as in torch, and may be
            empty.
        state_steps: Counts of the steps taken, one element each, float32 or float64; 1 is added to each.
        amsgrad: Divide by the largest second moment so far.
        beta1: Decay of the first moment, in [0, 1).
        beta2: Decay of the second moment, in [0, 1).
        lr: Learning rate (gamma), at least 0.
        weight_decay: Decay (lambda), at least 0.
        eps: Added to the denominator, at least 0.
        maximize: Ascend instead of descend.
        decoupled_weight_decay: Scale the parameter by 1 - lr * weight_decay instead of adding to the gradient.
        capturable: Read the step counts on the GPU, so that a CUDA graph can be captured; needs CUDA tensors.

    Raises:
        ValueError: A shape, device, layout or hyper-parameter is not as above, or tensors share memory.
        TypeError: An entry is not a tensor or has another dtype.

    Example:
        >>> import numpy as np
        >>> from onepass.optim import functional
        >>> weight, grad, m, v, steps = (np.array([value]) for value in (1.0, 2.0, 0.0, 0.0, 0.0))
        >>> options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8}
        >>> functional.adam([weight], [grad], [m], [v], [], [steps], amsgrad=False, maximize=False, **options)
        >>> weight.round(6), m.round(6), steps
        (array([0.9]), array([0.2]), array([1.]))

    Differs from torch: entries may be numpy arrays; gradients may have another dtype than their parameter.

    Source: Kingma and Ba 2015, algorithm 1; Reddi et al. 2018; torch.optim.adam.adam.
    """
    function = "adamw" if decoupled_weight_decay else "adam"
    options: AdamOptions = {
        "lr": number_or_tensor(function, "lr", lr, on_device=capturable),
        "beta1": number(function, "beta1", beta1),
        "beta2": number(function, "beta2", beta2),
        "eps": number(function, "eps", eps),
        "weight_decay": number(function, "weight_decay", weight_decay),
        "amsgrad": bool(amsgrad),
        "maximize": bool(maximize),
        "decoupled_weight_decay": bool(decoupled_weight_decay),
        "capturable": bool(capturable),
        "precision": None,
    }
    try:
        states = {"exp_avgs": list(exp_avgs), "exp_avg_sqs": list(exp_avg_sqs)}
        if amsgrad:
            states["max_exp_avg_sqs"] = list(max_exp_avg_sqs)
        group = ListGroup(list(params), list(grads), options, states, state_steps=list(state_steps))
    except TypeError:
        check_lists(function, _OF, params=params, grads=grads, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs)
        check_lists(function, _OF, max_exp_avg_sqs=max_exp_avg_sqs, state_steps=state_steps)
        raise
    run_lists("adam", function, [group])


def adamw(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_avg_sqs: Sequence[Any],
    max_exp_avg_sqs: Sequence[Any],
    state_steps: Sequence[Any],
    *,
    amsgrad: bool,
    beta1: float,
    beta2: float,
    lr: float | Tensor,
    weight_decay: float,
    eps: float,
    maximize: bool,
    capturable: bool = False,
) -> None:
    """Takes one step of AdamW: `adam` with decoupled weight decay, which scales p by 1 - lr * weight_decay first.

    Args:
        params: As for `adam`.
        grads: As for `adam`.
        exp_avgs: As for `adam`.
        exp_avg_sqs: As for `adam`.
        max_exp_avg_sqs: As for `adam`.
        state_steps: As for `adam`.
        amsgrad: As for `adam`.
        beta1: As for `adam`.
        beta2: As for `adam`.
        lr: As for `adam`.
        weight_decay: Decoupled decay, at least 0.
        eps: As for `adam`.
        maximize: As for `adam`.
        capturable: As for `adam`.

    Raises:
        ValueError: A shape, device, layout or hyper-parameter is not as above, or tensors share memory.
        TypeError: An entry is not a tensor or has another dtype.

    Example:
        >>> import numpy as np
        >>> from onepass.optim import functional
        >>> weight, grad, m, v, steps = (np.array([value]) for value in (1.0, 2.0, 0.0, 0.0, 0.0))
        >>> options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.5, "eps": 1e-8}
        >>> functional.adamw([weight], [grad], [m], [v], [], [steps], amsgrad=False, maximize=False, **options)
        >>> weight.round(6)
        array([0.85])

    Differs from torch: entries may be numpy arrays; gradients may have another dtype than their parameter.

    Source: Loshchilov and Hutter 2019, algorithm 2; torch.optim.adamw.adamw.
    """
    adam(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        state_steps,
        amsgrad=amsgrad,
        beta1=beta1,
        beta2=beta2,
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        maximize=maximize,
        decoupled_weight_decay=True,
        capturable=capturable,
    )


def _empty_like(param: Any) -> Any:
    if isinstance(param, Tensor):
        return torch.empty_like(param, requires_grad=False)
    return param.copy() if isinstance(param, np.ndarray) else param  # the core refuses the parameter itself


def _run_sgd(
    params: list[Tensor], grads: list[Tensor], momentum_buffer_list: list[Tensor], **options: Any
) -> None:
    sgd(params, grads, list(momentum_buffer_list), **options)


def _run_adam(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    **options: Any,
) -> None:
    # torch.compile keeps the step counts of CUDA parameters on the GPU.
    capturable = any(step.is_cuda for step in state_steps)
    lists = (params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)
    adam(*lists, capturable=capturable, **options)


_ops.register_step(
    "sgd_",
    "Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffer_list",
    "float momentum, float dampening, float weight_decay, bool nesterov, bool maximize",
    _run_sgd,
)
_ops.register_step(
    "adam_",
    "Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
    "Tensor(d!)[] max_exp_avg_sqs, Tensor(e!)[] state_steps",
    "float beta1, float beta2, float weight_decay, float eps, bool amsgrad, bool maximize, "
    "bool decoupled_weight_decay",
    _run_adam,
)

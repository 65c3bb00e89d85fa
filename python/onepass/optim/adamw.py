"""AdamW: Adam with decoupled weight decay, in one pass over memory."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from onepass.optim._step.grouped import ParamsT
from onepass.optim.adam import Adam

__all__ = ["AdamW"]


class AdamW(Adam, torch.optim.AdamW):
    r"""Takes steps of AdamW, all parameters in one pass: 28 bytes read and written per float32 parameter.

    .. math::
        p &\leftarrow (1 - \gamma \lambda) p_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        p_t &= p - \frac{\gamma}{1 - \beta_1^t} \,
            \frac{m_t}{\sqrt{x_t} / \sqrt{1 - \beta_2^t} + \epsilon},
            \qquad x_t = \max(x_{t-1}, v_t) \text{ if amsgrad else } v_t

    Args:
        params: As for `Adam`.
        lr: As for `Adam`.
        betas: As for `Adam`.
        eps: As for `Adam`.
        weight_decay: Decoupled decay (lambda), at least 0: each step scales a parameter by 1 - lr * weight_decay.
        amsgrad: As for `Adam`.
        maximize: Ascend instead of descend.
        foreach: As for `Adam`.
        capturable: As for `Adam`.
        differentiable: As for `Adam`.
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

    Example:
        >>> import torch
        >>> from onepass.optim import AdamW
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = AdamW([weight], lr=0.1, weight_decay=0.5)
        >>> weight.grad = torch.tensor([2.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([0.8500])

    Differs from torch: gradients may have another floating dtype than their parameter; states loaded as float32
    stay float32 for bfloat16 and float16 parameters; options are checked again at each step.

    Source: Loshchilov and Hutter 2019, algorithm 2; torch.optim.AdamW.
    """

    # The decoupled decay is not listed: the class says it.
    _told_options: ClassVar[tuple[str, ...]] = ("amsgrad", "maximize")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
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
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keeps the decay decoupled, also with a checkpoint of a torch version that does not save that option."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True

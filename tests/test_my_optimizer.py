"""An example: the tests that a package with an optimizer of its own gets from onepass, one for each case.

Copy it, put your class in the place of `MyAdam`, and run it with pytest.
"""

from __future__ import annotations

import pytest
import torch

import onepass.parity


class MyAdam(torch.optim.Optimizer):
    """Stands for your optimizer: AdamW without amsgrad and maximize, which it therefore does not accept."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)
        return loss

    def _update(self, param, group):
        if param.is_complex() or param.grad.is_sparse:
            raise TypeError("MyAdam: params must be real with dense gradients")
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
        state["step"] += 1
        count = state["step"].item()
        (beta1, beta2), lr = group["betas"], group["lr"]
        param.mul_(1 - lr * group["weight_decay"])
        state["exp_avg"].lerp_(param.grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(param.grad, param.grad, value=1 - beta2)
        root = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
        param.addcdiv_(state["exp_avg"], root, value=-float(lr) / (1 - beta1**count))


@pytest.mark.parametrize("case", onepass.parity.check_optimizer(MyAdam, as_="adamw"))
def test_my_optimizer(case):
    """Passes where the result is right, is skipped where MyAdam raises, and fails for a silent fault."""
    case.check()

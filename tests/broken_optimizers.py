"""Optimizers with one fault each, and the same code without a fault: what the trap suite must tell apart."""

from __future__ import annotations

import torch
from torch.optim import Optimizer


class Adam(Optimizer):
    """Adam as torch's plain loop; a subclass changes one of its hooks."""

    decoupled = False

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "amsgrad": amsgrad, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self.update(param, param.grad, group)
        return loss

    def update(self, param, grad, group):
        if param.is_complex():
            raise TypeError("complex parameters are not supported")
        grad = -grad if group["maximize"] else grad
        state = self.state[param]
        if not state:
            self.start(param, state, group)
        state["step"] += 1
        lr, decay = group["lr"], group["weight_decay"]
        if decay:
            if self.decoupled:
                param.mul_(1 - lr * decay)
            else:
                grad = grad.add(param, alpha=decay)
        beta1, beta2 = group["betas"]
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(grad.to(first.dtype), 1 - beta1)
        second.mul_(beta2).addcmul_(grad.to(second.dtype), grad.to(second.dtype), value=1 - beta2)
        if group["amsgrad"]:
            second = torch.maximum(state["max_exp_avg_sq"], second, out=state["max_exp_avg_sq"])
        count = self.count(state)
        root = self.root(second / (1 - beta2**count), group["eps"])
        param.sub_((lr / (1 - beta1**count) * first / root).to(param.dtype))

    def start(self, param, state, group):
        state["step"] = 0
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if group["amsgrad"] else 2]:
            state[name] = torch.zeros_like(param, dtype=self.state_dtype(param))

    def state_dtype(self, param):
        return param.dtype

    def count(self, state):
        return state["step"]

    def root(self, second, eps):
        return second.sqrt() + eps


class AdamW(Adam):
    decoupled = True


class LateGradient(Adam):
    """Counts the steps of the optimizer, and takes that count for each parameter's."""

    taken = 0

    def step(self, closure=None):
        self.taken += 1
        return super().step(closure)

    def start(self, param, state, group):
        super().start(param, state, group)
        state["step"] = self.taken - 1


class LateGradientRaises(Adam):
    def step(self, closure=None):
        if any(param.grad is None for group in self.param_groups for param in group["params"]):
            raise TypeError("expected a gradient, got None")
        return super().step(closure)


class Stride(Adam):
    """Takes memory for dense and contiguous."""

    @torch.no_grad()
    def update(self, param, grad, group):
        flat = param.as_strided((param.numel(),), (1,))
        if flat.storage_offset() + flat.numel() > flat.untyped_storage().nbytes() // flat.element_size():
            raise ValueError("the parameter must be dense")
        own = torch.nn.Parameter(flat.clone())
        self.state[own] = self.state.pop(param, {})
        super().update(own, grad.as_strided((grad.numel(),), (1,)), group)
        self.state[param] = self.state.pop(own)
        flat.copy_(own)


class BiasCorrection(Adam):
    def count(self, state):
        return state["step"] + 1


class CoupledDecay(AdamW):
    decoupled = False


class EpsInsideTheRoot(AdamW):
    def root(self, second, eps):
        return (second + eps).sqrt()


class OtherStates(AdamW):
    """Keeps the corrected averages under torch's names; it has no fault."""

    def update(self, param, grad, group):
        state, (beta1, beta2) = self.state[param], group["betas"]
        names = {"exp_avg": beta1, "exp_avg_sq": beta2, "max_exp_avg_sq": beta2}
        kept = {name: beta for name, beta in names.items() if name in state and name[0] == "e"}
        for name, beta in kept.items():
            state[name].mul_(1 - beta ** state["step"])
        super().update(param, grad, group)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].div_(1 - names[name] ** state["step"])


class AmsgradIgnored(Adam):
    def __init__(self, params, amsgrad=False, **options):
        super().__init__(params, **options)


class StateDtype(AdamW):
    """Keeps float32 states of half precision parameters, which torch's load_state_dict rounds."""

    def state_dtype(self, param):
        return torch.promote_types(param.dtype, torch.float32)


class SGD(Optimizer):
    first_dampened = False

    def __init__(
        self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False
    ):
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "nesterov": nesterov, "maximize": maximize})

    step = Adam.step

    def update(self, param, grad, group):
        grad = -grad if group["maximize"] else grad
        if group["weight_decay"]:
            grad = grad.add(param, alpha=group["weight_decay"])
        if group["momentum"]:
            state, share = self.state[param], 1 - group["dampening"]
            if "momentum_buffer" in state:
                state["momentum_buffer"].mul_(group["momentum"]).add_(grad, alpha=share)
            else:
                state["momentum_buffer"] = grad.clone() * (share if self.first_dampened else 1)
            buffer = state["momentum_buffer"]
            grad = grad.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer
        param.add_(grad, alpha=-group["lr"])


class FirstMomentumDampened(SGD):
    first_dampened = True

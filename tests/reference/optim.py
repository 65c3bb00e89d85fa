"""SGD, Adam and AdamW in float64 numpy, one parameter at a time, from the formulas of torch's documentation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


@dataclass
class Sgd:
    """Does stochastic gradient descent; `buffer` is momentum_buffer after the first step."""

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    buffer: Array | None = None

    def step(self, param: Array, grad: Array) -> Array:
        """Returns the parameter after one step."""
        grad = -grad if self.maximize else grad
        if self.weight_decay != 0:
            grad = grad + self.weight_decay * param
        if self.momentum != 0:
            if self.buffer is None:
                self.buffer = grad.copy()
            else:
                self.buffer = self.momentum * self.buffer + (1 - self.dampening) * grad
            grad = grad + self.momentum * self.buffer if self.nesterov else self.buffer
        return param - self.lr * grad


@dataclass
class Adam:
    """Does Adam, AdamW (decoupled) and AMSGrad; `m`, `v` and `x` are exp_avg, exp_avg_sq and max_exp_avg_sq."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled: bool = False
    t: int = 0
    m: Array = field(default_factory=lambda: np.zeros(()))
    v: Array = field(default_factory=lambda: np.zeros(()))
    x: Array = field(default_factory=lambda: np.zeros(()))

    def step(self, param: Array, grad: Array) -> Array:
        """Returns the parameter after one step."""
        beta1, beta2 = self.betas
        self.t += 1
        grad = -grad if self.maximize else grad
        if self.decoupled:
            param = param * (1 - self.lr * self.weight_decay)
        elif self.weight_decay != 0:
            grad = grad + self.weight_decay * param
        self.m = beta1 * self.m + (1 - beta1) * grad
        self.v = beta2 * self.v + (1 - beta2) * grad * grad
        self.x = np.maximum(self.x, self.v)
        m_hat = self.m / (1 - beta1**self.t)
        v_hat = (self.x if self.amsgrad else self.v) / (1 - beta2**self.t)
        return param - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)

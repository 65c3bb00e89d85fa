"""The optimizers in float64 numpy, one parameter at a time, from the formulas of papers and documentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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

    def states(self) -> dict[str, Array]:
        """The states that an optimizer has by now, by their names."""
        return {} if self.buffer is None else {"momentum_buffer": self.buffer}

    def set_states(self, own: dict[str, Array]) -> None:
        """Goes on from an optimizer's states."""
        self.buffer = own.get("momentum_buffer")


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

    def states(self) -> dict[str, Array]:
        """The states that an optimizer has by now, by their names."""
        found = {"exp_avg": self.m, "exp_avg_sq": self.v}
        return found | ({"max_exp_avg_sq": self.x} if self.amsgrad else {})

    def set_states(self, own: dict[str, Array]) -> None:
        """Goes on from an optimizer's states; the count of steps is the reference's own."""
        self.m, self.v = own.get("exp_avg", self.m), own.get("exp_avg_sq", self.v)
        self.x = own.get("max_exp_avg_sq", self.x)


@dataclass
class Lion:
    """Lion; `m` is exp_avg."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    maximize: bool = False
    m: Array = field(default_factory=lambda: np.zeros(()))

    def step(self, param: Array, grad: Array) -> Array:
        """Returns the parameter after one step."""
        beta1, beta2 = self.betas
        grad = -grad if self.maximize else grad
        update = np.sign(beta1 * self.m + (1 - beta1) * grad)  # of a nan it is nan
        self.m = beta2 * self.m + (1 - beta2) * grad
        return param * (1 - self.lr * self.weight_decay) - self.lr * update

    def states(self) -> dict[str, Array]:
        """The states that an optimizer has by now, by their names."""
        return {"exp_avg": self.m}

    def set_states(self, own: dict[str, Array]) -> None:
        """Goes on from an optimizer's states."""
        self.m = own.get("exp_avg", self.m)


def reference_of(rule: str, options: dict[str, Any], dtype: type) -> Sgd | Adam | Lion:
    """The reference of a class of this name with these options, its states of this dtype."""
    zero = np.zeros((), dtype=dtype)
    if rule == "SGD":
        return Sgd(**options)
    if rule == "Lion":
        return Lion(**options, m=zero)
    # torch's defaults of weight_decay differ between the two.
    decay = {"weight_decay": 1e-2} if rule == "AdamW" else {}
    return Adam(**{**decay, **options}, decoupled=rule == "AdamW", m=zero, v=zero, x=zero)

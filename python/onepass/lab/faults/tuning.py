"""The trainings by which the thresholds are chosen: perceptrons on scikit-learn's digits.

Nothing is shown by these: `proof` has other data, other networks, other optimizers and other seeds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from onepass.lab.faults.networks import Attention, Recurrent, convolutional, deep, perceptron, pooled
from onepass.lab.faults.parts import optimizer, schedule, with_biases, with_momentum
from onepass.lab.faults.training import Fault, Training
from onepass.optim import SGD, Adam, AdamW, Lion, no_decay_groups

__all__ = ["HEALTHY", "PLANTED", "SEEDS"]

SEEDS = (0, 1, 2)


_plain, _normed = perceptron, partial(perceptron, norm=True)
_adam = Training(_plain, optimizer(Adam, lr=1e-3))
_sgd = Training(_plain, optimizer(SGD, lr=0.05, momentum=0.9))

_warmed = schedule("warmup(W) >> cosine(N)")
_gap = Training(partial(perceptron, width=256), optimizer(Adam, lr=1e-3), epochs=150, batch=50, examples=100)
_deep = Training(partial(deep, width=64, depth=8, activation=nn.Sigmoid), optimizer(SGD, lr=0.1, momentum=0.9))
_wild = Training(partial(deep, width=64, depth=8, activation=nn.ReLU, gain=4.0), optimizer(SGD, lr=1e-3))
_tame = replace(
    _sgd,
    network=partial(deep, width=64, depth=8, activation=nn.ReLU, gain=2.0),
    optimizer=optimizer(SGD, lr=0.02, momentum=0.9),
)
_biased = Training(with_biases(partial(perceptron, depth=3), -3.0), optimizer(Adam, lr=1e-3))
_normed_adam = Training(_normed, optimizer(Adam, lr=1e-3))
_narrow = Training(_plain, optimizer(SGD, lr=2e-3), dtype=torch.bfloat16, epochs=15)
_half = replace(_sgd, autocast=torch.float16, scaler=lambda: torch.amp.GradScaler("cpu"))
_noisy = Training(partial(perceptron, width=256), optimizer(Adam, lr=2e-3), wrong_labels=0.3, epochs=40)
_blind = Training(partial(pooled, grid=1), optimizer(Adam, lr=1e-2), epochs=15)
_abrupt = replace(_adam, optimizer=optimizer(Adam, lr=0.1), schedule=schedule("cosine(N)"))

PLANTED: dict[str, Fault] = {
    "generalization_gap": Fault(_gap, replace(_gap, examples=None, epochs=12)),
    "learning_rate_too_high": Fault(replace(_sgd, optimizer=optimizer(SGD, lr=0.6, momentum=0.9)), _sgd),
    "divergence": Fault(
        replace(_sgd, optimizer=optimizer(SGD, lr=20.0)), replace(_sgd, optimizer=optimizer(SGD, lr=0.5))
    ),
    "learning_rate_too_low": Fault(replace(_adam, optimizer=optimizer(Adam, lr=1e-5), epochs=15), _adam),
    "learning_rate_too_low.sgd": Fault(replace(_sgd, optimizer=optimizer(SGD, lr=1e-5, momentum=0.9))),
    "no_warmup": Fault(_abrupt, replace(_abrupt, schedule=_warmed)),
    "no_warmup.attention": Fault(
        Training(partial(Attention, depth=3), optimizer(Adam, lr=0.02), schedule=schedule("cosine(N)")),
        Training(partial(Attention, depth=3), optimizer(Adam, lr=0.02), schedule=_warmed),
    ),
    "vanishing_gradients": Fault(_deep, _tame),
    "exploding_gradients": Fault(_wild, _tame),
    "dead_units": Fault(_biased, replace(_biased, network=partial(perceptron, depth=3))),
    "stale_running_statistics": Fault(replace(_normed_adam, network=with_momentum(_normed, 1e-3)), _normed_adam),
    "small_batch_statistics": Fault(replace(_normed_adam, batch=2, epochs=1), _normed_adam),
    "overconfidence": Fault(replace(_adam, temperature=8.0), _adam),
    "lost_updates": Fault(
        _narrow, replace(_narrow, optimizer=optimizer(SGD, lr=0.05, momentum=0.9, master_weights=True))
    ),
    "scaler_thrashing": Fault(
        replace(_half, scaler=lambda: torch.amp.GradScaler("cpu", growth_interval=2)), _half
    ),
    "missing_zero_grad": Fault(
        replace(_sgd, optimizer=optimizer(SGD, lr=0.02), zero_grad=False),
        replace(_sgd, optimizer=optimizer(SGD, lr=0.2)),
    ),
    "decay_on_norms": Fault(
        Training(_normed, optimizer(AdamW, lr=3e-3, weight_decay=2.0), epochs=15),
        Training(_normed, lambda model: AdamW(no_decay_groups(model, 2.0)[0], lr=3e-3), epochs=15),
    ),
    "label_noise": Fault(_noisy, replace(_noisy, wrong_labels=0.0, epochs=20)),
    "plateau": Fault(_blind, replace(_blind, network=perceptron, optimizer=optimizer(Adam, lr=1e-3))),
}

HEALTHY: dict[str, Training] = {
    "adamw-cosine": Training(_plain, optimizer(AdamW, lr=3e-3), schedule=schedule("warmup(W) >> cosine(N)")),
    "sgd-momentum": _sgd,
    "sgd-batch-norm": replace(_sgd, network=_normed),
    "adam-dropout": replace(_adam, network=partial(perceptron, width=128, dropout=0.2), epochs=15),
    "convolutional-adam": Training(convolutional, optimizer(Adam, lr=3e-3)),
    "torch-sgd-batch-norm": Training(
        partial(convolutional, norm=True), optimizer(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
    ),
    "bfloat16-autocast": replace(_adam, autocast=torch.bfloat16, optimizer=optimizer(AdamW, lr=3e-3)),
    "bfloat16-master-weights": Training(
        _plain, optimizer(AdamW, lr=3e-3, master_weights=True), dtype=torch.bfloat16
    ),
    "float16-scaler": replace(_sgd, autocast=torch.float16, scaler=lambda: torch.amp.GradScaler("cpu")),
    "transformer-warmup": Training(
        partial(Attention, depth=3, norm_first=True),
        optimizer(AdamW, lr=3e-3, max_grad_norm=1.0),
        schedule=schedule("warmup(W) >> cosine(N)"),
    ),
    "recurrent-clipped": Training(Recurrent, optimizer(Adam, lr=2e-3, max_grad_norm=1.0)),
    "label-smoothing": replace(_adam, optimizer=optimizer(AdamW, lr=3e-3), smoothing=0.1),
    "lion": Training(_normed, optimizer(Lion, lr=1e-3), schedule=schedule("cosine(N)")),
}

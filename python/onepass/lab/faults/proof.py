"""The trainings that prove the rules: MNIST, other networks, other optimizers and other seeds than `tuning`.

No threshold is chosen by these.
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

# Those that were used before to mend rules and trainings are in docs/diagnosis.md, with their scores.
SEEDS = (400, 401, 402)

_normed = partial(convolutional, norm=True)
_adam = Training(convolutional, optimizer(AdamW, lr=2e-3), epochs=5)
_sgd = Training(convolutional, optimizer(SGD, lr=0.03, momentum=0.9), epochs=5)
_cosine, _warmed = schedule("cosine(N)"), schedule("warmup(W) >> cosine(N)")

_few = Training(convolutional, optimizer(torch.optim.Adam, lr=2e-3), examples=120, batch=40, epochs=70)
_post_norm = Training(
    partial(Attention, depth=2, width=48), optimizer(AdamW, lr=0.02), batch=80, schedule=_cosine, epochs=4
)
_tanh = Training(
    partial(deep, width=100, depth=12, activation=nn.Tanh, gain=0.4), optimizer(SGD, lr=0.1), epochs=5
)
_tanh_tame = replace(_tanh, network=partial(deep, width=100, depth=12, activation=nn.Tanh, gain=1.7))
_recurrent = Training(partial(Recurrent, gain=3.0), optimizer(SGD, lr=0.02, momentum=0.9), epochs=5)
_biased = Training(with_biases(convolutional, -4.0), optimizer(SGD, lr=0.03, momentum=0.9), epochs=4)
_normed_sgd = Training(_normed, optimizer(SGD, lr=0.03, momentum=0.9), epochs=4)
_deep_norms = Training(partial(perceptron, width=100, depth=3, norm=True), optimizer(SGD, lr=0.01, momentum=0.9))
_narrow = Training(convolutional, optimizer(Adam, lr=1e-4), dtype=torch.bfloat16, epochs=4)
_half = replace(_adam, autocast=torch.float16, scaler=lambda: torch.amp.GradScaler("cpu"))
_decayed = Training(_normed, optimizer(SGD, lr=0.05, momentum=0.9, weight_decay=0.02), epochs=5)
_noisy = Training(
    partial(perceptron, width=256, depth=3, norm=True), optimizer(AdamW, lr=2e-3), wrong_labels=0.4, epochs=18
)
_blind = Training(partial(pooled, grid=2), optimizer(SGD, lr=0.1, momentum=0.9), epochs=10)

PLANTED: dict[str, Fault] = {
    "generalization_gap": Fault(_few, replace(_few, examples=None, batch=64, epochs=5)),
    "learning_rate_too_high": Fault(replace(_sgd, optimizer=optimizer(SGD, lr=0.25, momentum=0.9)), _sgd),
    "divergence": Fault(replace(_sgd, optimizer=optimizer(torch.optim.SGD, lr=10.0, momentum=0.9)), _sgd),
    "learning_rate_too_low": Fault(replace(_sgd, optimizer=optimizer(SGD, lr=1e-5, momentum=0.9)), _sgd),
    "no_warmup": Fault(_post_norm, replace(_post_norm, schedule=_warmed)),
    "vanishing_gradients": Fault(_tanh, _tanh_tame),
    "exploding_gradients": Fault(_recurrent, replace(_recurrent, network=Recurrent)),
    "dead_units": Fault(_biased, replace(_biased, network=convolutional)),
    "stale_running_statistics": Fault(replace(_normed_sgd, network=with_momentum(_normed, 1e-3)), _normed_sgd),
    "small_batch_statistics": Fault(
        replace(_deep_norms, batch=3, epochs=1), replace(_deep_norms, batch=64, epochs=4)
    ),
    "overconfidence": Fault(replace(_sgd, temperature=10.0), _sgd),
    "lost_updates": Fault(_narrow, replace(_narrow, optimizer=optimizer(AdamW, lr=2e-3, rounding="kahan"))),
    "scaler_thrashing": Fault(
        replace(_half, scaler=lambda: torch.amp.GradScaler("cpu", growth_interval=3)), _half
    ),
    "missing_zero_grad": Fault(replace(_adam, zero_grad=False), _adam),
    "decay_on_norms": Fault(
        _decayed,
        replace(_decayed, optimizer=lambda model: SGD(no_decay_groups(model, 0.02)[0], lr=0.05, momentum=0.9)),
    ),
    "label_noise": Fault(_noisy, replace(_noisy, wrong_labels=0.0, epochs=8)),
    "plateau": Fault(
        _blind, replace(_blind, network=convolutional, optimizer=optimizer(SGD, lr=0.03, momentum=0.9))
    ),
}

_wide = partial(perceptron, width=100, depth=3)
_wide_normed = partial(perceptron, width=100, depth=3, norm=True)
PLANTED |= {
    "generalization_gap.perceptron": Fault(
        Training(partial(perceptron, width=200), optimizer(SGD, lr=0.05, momentum=0.9), examples=300, epochs=60)
    ),
    "learning_rate_too_high.batch_norm": Fault(replace(_sgd, network=_normed, optimizer=optimizer(SGD, lr=1.0))),
    "learning_rate_too_high.adam": Fault(replace(_adam, network=_wide, optimizer=optimizer(Adam, lr=0.05))),
    "divergence.recurrent": Fault(Training(Recurrent, optimizer(torch.optim.SGD, lr=1.0, momentum=0.9), epochs=3)),
    "vanishing_gradients.sigmoid": Fault(
        Training(partial(deep, width=50, depth=10, activation=nn.Sigmoid), optimizer(AdamW, lr=1e-3), epochs=4)
    ),
    "exploding_gradients.convolutional": Fault(
        Training(
            partial(deep, width=80, depth=10, activation=nn.ReLU, gain=5.0), optimizer(Adam, lr=1e-3), epochs=4
        )
    ),
    "no_warmup.convolutional": Fault(
        replace(_adam, network=_normed, optimizer=optimizer(Adam, lr=0.2), schedule=_cosine)
    ),
    "stale_running_statistics.perceptron": Fault(
        Training(with_momentum(_wide_normed, 5e-4), optimizer(torch.optim.AdamW, lr=1e-3), epochs=4)
    ),
    "small_batch_statistics.adam": Fault(Training(_wide_normed, optimizer(AdamW, lr=1e-3), batch=2, epochs=1)),
    "lost_updates.sgd": Fault(Training(_wide, optimizer(SGD, lr=5e-3), dtype=torch.bfloat16, epochs=4)),
    "scaler_thrashing.torch": Fault(
        Training(
            _wide,
            optimizer(torch.optim.Adam, lr=1e-3),
            autocast=torch.float16,
            scaler=lambda: torch.amp.GradScaler("cpu", growth_interval=1),
            epochs=4,
        )
    ),
    "missing_zero_grad.torch": Fault(
        replace(_sgd, optimizer=optimizer(torch.optim.SGD, lr=0.02), zero_grad=False)
    ),
    "decay_on_norms.adamw": Fault(Training(_wide_normed, optimizer(AdamW, lr=2e-3, weight_decay=4.0), epochs=5)),
    "label_noise.sgd": Fault(
        Training(
            partial(perceptron, width=300), optimizer(SGD, lr=0.1, momentum=0.9), wrong_labels=0.25, epochs=25
        )
    ),
    "plateau.adam": Fault(Training(partial(pooled, grid=1, width=64), optimizer(Adam, lr=3e-3), epochs=6)),
}

HEALTHY: dict[str, Training] = {
    "adamw-cosine": replace(_adam, optimizer=optimizer(AdamW, lr=3e-3), schedule=_warmed),
    "torch-adamw": replace(_adam, optimizer=optimizer(torch.optim.AdamW, lr=2e-3)),
    "sgd-nesterov-batch-norm": Training(
        _normed, optimizer(SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4), epochs=5
    ),
    "torch-sgd-one-cycle": replace(
        _sgd,
        optimizer=optimizer(torch.optim.SGD, lr=0.05, momentum=0.9),
        schedule=lambda of, steps: torch.optim.lr_scheduler.OneCycleLR(of, 0.1, total_steps=steps),
    ),
    "dropout-perceptron": Training(
        partial(perceptron, width=128, depth=2, dropout=0.5), optimizer(Adam, lr=1e-3), epochs=12
    ),
    "post-norm-warmup": Training(
        partial(Attention, depth=2), optimizer(AdamW, lr=2e-3), schedule=_warmed, epochs=4
    ),
    "recurrent-clipped": Training(
        partial(Recurrent, width=96), optimizer(Adam, lr=1e-3, max_grad_norm=1.0), epochs=6
    ),
    "bfloat16-kahan": replace(_adam, optimizer=optimizer(AdamW, lr=2e-3, rounding="kahan"), dtype=torch.bfloat16),
    "bfloat16-autocast": replace(
        _sgd, autocast=torch.bfloat16, optimizer=optimizer(torch.optim.SGD, lr=0.03, momentum=0.9)
    ),
    "float16-scaler": _half,
    "smoothing-and-augmentation": replace(_adam, smoothing=0.1, augment=True, epochs=6),
    "lion-batch-norm": Training(_normed, optimizer(Lion, lr=1e-3), schedule=_cosine, epochs=4),
}

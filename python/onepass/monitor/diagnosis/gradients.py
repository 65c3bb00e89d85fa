"""Rules on the gradients: vanishing, exploding, never zeroed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import Facts, finite, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule

if TYPE_CHECKING:
    from onepass.monitor.diagnosis.facts import Array

# The largest slope of activations that level off.
_SLOPES = {"Sigmoid": 0.25, "Tanh": 1.0, "Softsign": 1.0, "Hardsigmoid": 1 / 6, "Hardtanh": 1.0}


# Steps that a leap is compared with.
_BEFORE = 20


@rule(
    "gradients",
    "The gradients shrink from layer to layer on their way back, so that the first layers hardly learn.",
    severity=0.85,
    source="Bengio et al. 1994; Glorot and Bengio 2010, section 4; He et al. 2015",
    explains=("plateau", "learning_rate_too_low", "lost_updates"),
    ratio=(
        1e-3,
        "gradient norm of the first layer / of the last",
        "a well scaled net has 0.1 to 10 (Glorot 2010)",
    ),
    stuck=(0.9, "last loss / first loss, for high confidence", "above, nothing has been learned"),
)
def vanishing_gradients(facts: Facts, limit: Limits) -> Finding | None:
    """Compares the gradients of the first layer with those of the last, at first and over the run."""
    names = [name for name in facts.layers_with("grad_norm") if "Norm" not in facts.types.get(name, "")]
    if len(names) < 3:
        return None
    first, last = (facts.layer(name, "grad_norm")[1] for name in (names[0], names[-1]))
    usual_first, usual_last = median_of(first), median_of(last)
    if not (usual_last > 0 and last[0] > 0):
        return None
    # What is so from the start is the network's; what comes later may be the damage of something else.
    ratio = max(usual_first / usual_last, float(first[0] / last[0]))
    if not ratio < limit.ratio:
        return None
    left = facts.last_loss / facts.first_loss
    text = f"the gradients of layer {names[0]} have the norm {usual_first:.1e}"
    text += f", those of layer {names[-1]} {usual_last:.1e}"
    values = {"ratio": ratio, "first": usual_first, "last": usual_last}
    evidence = [
        Evidence(text, values, layers=(names[0], names[-1])),
        Evidence(f"the loss is {left:.0%} of the first", {"left": left}),
    ]
    cure = []
    squashing = [name for name, kind in facts.types.items() if kind in _SLOPES]
    if squashing:
        kind = facts.types[squashing[0]]
        text = f"{len(squashing)} layers are {kind}, whose slope is at most {_SLOPES[kind]:.2g}"
        evidence.append(Evidence(text, layers=tuple(squashing)))
        line = f'model.set_submodule("{squashing[0]}", nn.ReLU())'
        line += f"  # and the other {len(squashing) - 1}" if len(squashing) > 1 else ""
        cure.append(Cure(f"Use ReLU instead of {kind}.", line))
    layer = f'model.get_submodule("{names[0]}")'
    cure += [
        cures.initialise(names[0]),
        Cure(
            "Normalise between the layers.",
            f'model.set_submodule("{names[0]}", nn.Sequential({layer}, nn.LazyBatchNorm1d()))',
        ),
        Cure("Add residual connections.", "x = x + block(x)"),
    ]
    return found("vanishing_gradients", "high" if left > limit.stuck else "medium", evidence, cure)


@rule(
    "gradients",
    "The gradients are larger than the weights from the first step on, or leap by orders of magnitude.",
    severity=0.95,
    source="Pascanu et al. 2013; He et al. 2015, section 2.2; Glorot and Bengio 2010",
    explains=(
        "divergence",
        "learning_rate_too_high",
        "no_warmup",
        "dead_units",
        "plateau",
        "generalization_gap",
        "overconfidence",
    ),
    start=(5.0, "gradient norm / parameter norm of the first step", "a well scaled net has below 1"),
    leap=(
        100.0,
        "gradient norm / median of the 20 steps before",
        "Pascanu et al. clip at a few times the average",
    ),
    calm=(0.1, "update ratio before a leap, at most", "after larger steps a leap is the rate's doing"),
)
def exploding_gradients(facts: Facts, limit: Limits) -> Finding | None:
    """Looks at the first gradients, which no rate has spoilt yet, and at leaps later."""
    norms = facts.grad_norm
    if not facts.count or np.isnan(norms).all():
        return None
    size = float(facts.param_norm[0])
    first = float(norms[0]) / size if size > 0 else float("nan")
    starts = first > limit.start or (np.isinf(norms[0]) and not facts.run.get("scaler"))
    where, leap = _leap(norms)
    before = finite(facts.update_ratio[:where])
    is_calm = not len(before) or float(before.max()) < limit.calm
    leaps = leap > limit.leap and is_calm and not facts.run.get("scaler")
    if not (starts or leaps):
        return None
    evidence = []
    if starts:
        text = f"the first gradients have the norm {norms[0]:.3g}, the weights {size:.3g}"
        evidence.append(Evidence(text, {"ratio": first}, (1, 1)))
        text = f"the first loss is {facts.first_loss:.3g}"
        evidence.append(Evidence(text, {"loss": facts.first_loss}, (1, 1)))
    if leaps:
        step = int(facts.step[where])
        text = f"the norm of the gradients leaps to {norms[where]:.3g}, {leap:.0f} times what it was before"
        evidence.append(Evidence(text, {"leap": leap}, (step, step)))
    names = facts.layers_with("grad_norm")
    layer = [cures.initialise(names[0])] if names else []
    cure = [*layer, cures.clip(facts)] if starts else [cures.clip(facts), *layer]
    # Where the updates are not known, the rate may be what makes the gradients leap.
    confidence = "high" if starts else "medium" if len(before) else "low"
    return found("exploding_gradients", confidence, evidence, [*cure, cures.lower_rate(facts)])


def _leap(norms: Array) -> tuple[int, float]:
    """Where the gradients' norm is largest compared with the median of the steps before, and that ratio."""
    where, largest = 0, 0.0
    for place in range(_BEFORE, len(norms)):
        usual = median_of(norms[place - _BEFORE : place])
        if norms[place] < np.inf and norms[place] > largest * usual > -1:
            where, largest = place, float(norms[place] / usual)
    return where, largest


@rule(
    "gradients",
    "Gradients of earlier steps are still there when the next backward pass adds to them.",
    severity=1.0,
    source="torch.optim.Optimizer.zero_grad; PyTorch recipe 'Zeroing out gradients'",
    explains=(
        "divergence",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "no_warmup",
        "exploding_gradients",
        "dead_units",
        "vanishing_gradients",
        "plateau",
        "generalization_gap",
        "overconfidence",
        "label_noise",
        "scaler_thrashing",
    ),
    growth=(
        3.0,
        "largest gradient norm of the first tenth / of the first 3 steps",
        "a sum of n has up to n times",
    ),
)
def missing_zero_grad(facts: Facts, limit: Limits) -> Finding | None:
    """Takes the monitor's event, and looks whether the gradients grow."""
    seen = [event for event in facts.events if event.get("name") == "missing_zero_grad"]
    if not seen:
        return None
    step = int(seen[0].get("step", 0))
    text = f"at step {step} the gradients of the step before are still there when the backward pass adds to them"
    evidence = [Evidence(text, {"events": float(len(seen))}, (step, step))]
    tenth = max(5, facts.count // 10)
    begin, known = median_of(facts.grad_norm[:3]), finite(facts.grad_norm[:tenth])
    if len(known) and known.max() > limit.growth * begin:
        text = f"their norm grows from {begin:.3g} to {known.max():.3g} in the first {tenth} steps"
        evidence.append(Evidence(text, {"growth": float(known.max()) / begin}, (1, tenth)))
    line = "optimizer.step(zero_grad=True)" if facts.is_ours else "optimizer.zero_grad()  # before loss.backward()"
    return found("missing_zero_grad", "high", evidence, [Cure("Zero the gradients once a step.", line)])

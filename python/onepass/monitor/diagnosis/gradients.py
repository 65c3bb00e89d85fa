"""Rules on the gradients: vanishing, exploding, never zeroed."""

from __future__ import annotations

import numpy as np

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import Facts, finite, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule

_SQUASHING = ("Sigmoid", "Tanh")


def _profile(facts: Facts) -> tuple[list[str], list[float], list[float]]:
    """The layers that have weights, in the model's order; of each the median norm of its gradients, and the first."""
    names = [name for name in facts.layers_with("grad_norm") if not facts.types.get(name, "").endswith("Norm")]
    names = [name for name in names if name not in facts.norms]
    values = [facts.layer(name, "grad_norm")[1] for name in names]
    return names, [median_of(one) for one in values], [float(one[0]) for one in values]


@rule(
    "gradients",
    "The gradients shrink from layer to layer on their way back, so that the first layers hardly learn.",
    severity=0.85,
    source="Bengio et al. 1994; Glorot and Bengio 2010, section 4; He et al. 2015",
    explains=("plateau", "learning_rate_too_low", "lost_updates"),
    ratio=(
        1e-3,
        "gradient norm of the first layer / that of the last",
        "a well scaled net has 0.1 to 10 (Glorot 2010)",
    ),
    stuck=(0.9, "last loss / first loss", "above, the net has learned nothing but the frequencies of the classes"),
)
def vanishing_gradients(facts: Facts, limit: Limits) -> Finding | None:
    """Compares the gradients of the first layer with those of the last."""
    names, norms, first = _profile(facts)
    if len(names) < 3 or not norms[-1] > 0:
        return None
    # What is so from the start is the network's; what comes later may be the damage of something else.
    ratio = max(norms[0] / norms[-1], first[0] / first[-1] if first[-1] > 0 else 1.0)
    if not ratio < limit.ratio:
        return None
    left = facts.last_loss / facts.first_loss
    evidence = [
        Evidence(
            f"the gradients of {names[0]} have the norm {norms[0]:.1e}, those of {names[-1]} {norms[-1]:.1e}",
            {"ratio": ratio, "first": norms[0], "last": norms[-1]},
            layers=(names[0], names[-1]),
        ),
        Evidence(f"the loss is {left:.0%} of the first", {"left": left}),
    ]
    squashing = [name for name, kind in facts.types.items() if kind in _SQUASHING]
    cure = []
    if squashing:
        kind = facts.types[squashing[0]]
        evidence.append(
            Evidence(
                f"{len(squashing)} layers are {kind}, whose slope is at most {0.25 if kind == 'Sigmoid' else 1}",
                layers=tuple(squashing),
            )
        )
        cure.append(
            Cure(
                f"Use ReLU instead of {kind}.",
                f'model.set_submodule("{squashing[0]}", nn.ReLU())  # and the other {len(squashing) - 1}',
            )
        )
    cure += [
        Cure(
            "Initialise for the activation (He for ReLU, Glorot for tanh).",
            f'nn.init.kaiming_normal_(model.get_submodule("{names[0]}").weight)  # and all other layers',
        ),
        Cure(
            "Normalise between the layers.",
            f'model.set_submodule("{names[0]}", nn.Sequential(model.get_submodule("{names[0]}"), nn.LazyBatchNorm1d()))',
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
    start=(5.0, "gradient norm / parameter norm of the first step", "a well scaled net has below 1 there"),
    leap=(100.0, "largest gradient norm / median", "Pascanu et al. clip at a few times the average"),
)
def exploding_gradients(facts: Facts, limit: Limits) -> Finding | None:
    """Looks at the first gradients, which no rate has spoilt yet, and at leaps later."""
    norms = facts.grad_norm
    if not facts.count or np.isnan(norms).all():
        return None
    first = float(norms[0] / facts.param_norm[0]) if facts.param_norm[0] > 0 else float("nan")
    usual = median_of(norms)
    known = finite(norms)
    leap = float(known.max()) / usual if len(known) and usual > 0 else float("nan")
    at_start = first > limit.start or np.isinf(norms[0])
    is_scaled = bool(facts.run.get("scaler"))
    # After a step that replaced the weights, large gradients are the rate's doing.
    where = int(np.nanargmax(norms))
    before = finite(facts.update_ratio[:where])
    is_rates = facts.has_damaged_itself or (len(before) > 0 and float(before.max()) > 0.1)
    leaps = facts.count >= 20 and leap > limit.leap and not is_scaled and not is_rates
    if not (at_start or leaps):
        return None
    evidence = []
    if at_start:
        evidence.append(
            Evidence(
                f"the first gradients have the norm {norms[0]:.3g}, the weights {facts.param_norm[0]:.3g}",
                {"ratio": first},
                (1, 1),
            )
        )
        evidence.append(Evidence(f"the first loss is {facts.first_loss:.3g}", {"loss": facts.first_loss}, (1, 1)))
    if leaps:
        step = int(facts.step[where])
        evidence.append(
            Evidence(
                f"the norm of the gradients leaps to {known.max():.3g}, {leap:.0f} times the median",
                {"leap": leap},
                (step, step),
            )
        )
    names = facts.layers_with("grad_norm")
    cure = [
        cures.clip(facts),
        Cure(
            "Initialise for the activation: each layer should keep the variance of its input.",
            f'nn.init.kaiming_normal_(model.get_submodule("{names[0] if names else "0"}").weight)  # and all other layers',
        ),
        cures.lower_rate(facts),
    ]
    return found("exploding_gradients", "high" if at_start else "medium", evidence, cure)


@rule(
    "gradients",
    "Gradients of earlier steps are still there when the next backward pass adds to them.",
    severity=1.0,
    source="torch.optim.Optimizer.zero_grad; PyTorch recipe 'Zeroing out gradients'",
    explains=(
        "divergence",
        "learning_rate_too_high",
        "exploding_gradients",
        "no_warmup",
        "dead_units",
        "plateau",
        "generalization_gap",
        "overconfidence",
        "label_noise",
        "scaler_thrashing",
        "learning_rate_too_low",
    ),
    growth=(
        5.0,
        "gradient norm after a tenth of the run / that of the first steps",
        "the sum of n like gradients has n times the norm",
    ),
)
def missing_zero_grad(facts: Facts, limit: Limits) -> Finding | None:
    """Takes the monitor's event."""
    seen = [event for event in facts.events if event.get("name") == "missing_zero_grad"]
    if not seen:
        return None
    step = int(seen[0].get("step", 0))
    evidence = [
        Evidence(
            f"after step {step} the gradients are still there when the next forward pass begins",
            {"events": len(seen)},
            (step, step),
        )
    ]
    tenth = max(2, facts.count // 10)
    begin, later = (
        median_of(facts.grad_norm[:3]),
        float(np.nanmax(facts.grad_norm[:tenth], initial=np.nan)) if facts.count else float("nan"),
    )
    if later > limit.growth * begin:
        evidence.append(
            Evidence(
                f"their norm grows from {begin:.3g} to {later:.3g} in the first {tenth} steps",
                {"growth": later / begin},
                (1, tenth),
            )
        )
    line = "optimizer.step(zero_grad=True)" if facts.is_ours else "optimizer.zero_grad()  # before loss.backward()"
    return found("missing_zero_grad", "high", evidence, [Cure("Zero the gradients once a step.", line)])

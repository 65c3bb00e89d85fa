"""Rules on the network: units that are dead, norms that are decayed."""

from __future__ import annotations

import math

import numpy as np

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import Facts, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule


@rule(
    "network",
    "Many ReLUs are 0 for every example of a batch, so that no gradient reaches the weights before them.",
    severity=0.8,
    source="Maas et al. 2013; Lu et al. 2020 (dying ReLU); CS231n notes, 'Commonly used activation functions'",
    explains=("plateau", "vanishing_gradients", "learning_rate_too_low"),
    share=(
        0.5,
        "median share of dead units of a layer in the second half of the run",
        "CS231n: 40 % can die at a rate that is too high",
    ),
    start=(0.3, "the same at the first step", "if they were dead from the start the rate is not the cause"),
)
def dead_units(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for layers whose units are mostly dead."""
    shares, starts = {}, {}
    for name in facts.layers_with("dead_units"):
        _, values = facts.layer(name, "dead_units")
        shares[name], starts[name] = median_of(values[len(values) // 2 :]), float(values[0])
    dead = {name: share for name, share in shares.items() if share > limit.share}
    if not dead:
        return None
    worst = max(dead, key=lambda name: dead[name])
    from_start = starts[worst] > limit.start
    text = f"{dead[worst]:.0%} of the units of {worst} are 0 for the whole batch"
    text += (
        f", {starts[worst]:.0%} of them from the first step on"
        if from_start
        else f"; at the first step {starts[worst]:.0%} were"
    )
    evidence = [Evidence(text, {"share": dead[worst], "first": starts[worst]}, layers=tuple(dead))]
    many = len(dead) * 2 >= len(shares) or dead[worst] > 0.9
    leaky = Cure("Use an activation with a slope below 0.", f'model.set_submodule("{worst}", nn.LeakyReLU(0.01))')
    first = Cure(
        "Initialise biases with 0, and weights for ReLU.",
        "nn.init.zeros_(layer.bias); nn.init.kaiming_normal_(layer.weight)  # the layer before it",
    )
    norm = Cure(
        "Put a batch norm before the ReLU: its bias begins at 0 and half of the batch passes.",
        f'model.set_submodule("{worst}", nn.Sequential(nn.LazyBatchNorm1d(), nn.ReLU()))',
    )
    cure = [first, leaky, norm] if from_start else [cures.lower_rate(facts), leaky, norm]
    is_harmless = facts.is_learning_finished
    confidence = "low" if is_harmless else "high" if many and from_start else "medium"
    return found("dead_units", confidence, evidence, cure)


@rule(
    "network",
    "Weight decay shrinks the weights of norms and biases, which it was not made for.",
    severity=0.9,
    source="Goyal et al. 2017, section 5.3; He et al. 2019 ('bag of tricks'), section 3.1; Loshchilov and Hutter 2019",
    explains=("plateau", "learning_rate_too_low"),
    shrink=(
        0.5,
        "1 - exp(-sum of rate times decay), by how much decay alone shrinks a weight in the run",
        "half of each norm's weight is gone",
    ),
)
def decay_on_norms(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for decay on norms and biases, and computes by how much it shrinks them."""
    rates = facts.groups("lr")
    worst, decay = 0.0, 0.0
    for place, group in enumerate(facts.optimizer_groups):
        if group.get("decays_norms_or_biases") and group.get("weight_decay"):
            total = float(np.nansum(rates[:, min(place, rates.shape[1] - 1)])) * float(group["weight_decay"])
            if isinstance(group.get("momentum"), (int, float)) and group["momentum"] < 1:
                total /= 1 - float(group["momentum"])
            if total > worst:
                worst, decay = total, float(group["weight_decay"])
    shrink = 1 - math.exp(-worst)
    if not decay or not facts.has_layer("Norm") or shrink < limit.shrink / 10:
        return None
    evidence = [
        Evidence(
            f"weight decay {decay:g} acts on norms and biases, and shrinks a weight by {shrink:.0%} in the run",
            {"weight_decay": decay, "shrink": shrink},
            layers=tuple(facts.norms),
        )
    ]
    cure = [
        Cure(
            "Exempt norms and biases.",
            f"optimizer = {facts.optimizer}(onepass.optim.no_decay_groups(model, {decay:g})[0], lr={facts.base_lr:.2g})",
        ),
        Cure("Decay less.", cures.optimizer_with(facts, weight_decay=decay / 10)),
    ]
    return found(
        "decay_on_norms", "high" if shrink > 0.8 else "medium" if shrink > limit.shrink else "low", evidence, cure
    )

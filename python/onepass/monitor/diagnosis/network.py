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
        "median share of dead units in the second half",
        "CS231n: 40 % can die at a rate that is too high",
    ),
    start=(0.3, "the same at the first record, for high confidence", "below, something later killed them"),
    most=(0.9, "the same of one layer, if fewer than half of the layers are so", "little passes this layer"),
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
    text = f"{dead[worst]:.0%} of the units of layer {worst} are 0 for the whole batch"
    text += f"; {starts[worst]:.0%} were at first"
    evidence = [Evidence(text, {"share": dead[worst], "first": starts[worst]}, layers=tuple(dead))]
    leaky = Cure("Use an activation with a slope below 0.", f'model.set_submodule("{worst}", nn.LeakyReLU(0.01))')
    norm = Cure(
        "Put a batch norm before the ReLU: half of the batch then passes.",
        f'model.set_submodule("{worst}", nn.Sequential(nn.LazyBatchNorm1d(), nn.ReLU()))',
    )
    before = _layer_before(facts, worst)
    zero = Cure("Begin with biases of 0.", f'nn.init.zeros_(model.get_submodule("{before}").bias)')
    from_start = starts[worst] > limit.start
    cure = [zero, cures.initialise(before), leaky, norm] if from_start else [cures.lower_rate(facts), leaky, norm]
    if facts.is_learning_finished:
        return found("dead_units", "low", evidence, cure)
    many = len(dead) * 2 >= len(shares) or dead[worst] > limit.most
    return found("dead_units", "high" if many and from_start else "medium", evidence, cure)


def _layer_before(facts: Facts, name: str) -> str:
    """The last layer before this one that has weights; the layer itself if there is none."""
    names = list(facts.types)
    weighted = set(facts.layers_with("grad_norm"))
    found_before = [one for one in names[: names.index(name) if name in names else 0] if one in weighted]
    return found_before[-1] if found_before else name


@rule(
    "network",
    "Weight decay shrinks the weights of norms and biases, for which it was not made.",
    severity=0.9,
    source="Goyal et al. 2017, section 5.3; He et al. 2019 (bag of tricks), section 3.1",
    explains=("plateau", "learning_rate_too_low", "overconfidence"),
    shrink=(0.5, "1 - exp(-sum of rate times decay)", "decay halves each such weight that nothing holds"),
    most=(0.8, "the same, for high confidence", "a fifth of the weight would be left"),
    least=(0.05, "the same, for low confidence", "below, it does not matter in this run"),
)
def decay_on_norms(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for decay on norms and biases, and computes by how much it shrinks them."""
    rates, worst, decay = facts.groups("lr"), 0.0, 0.0
    for place, group in enumerate(facts.optimizer_groups):
        if not group.get("decays_norms_or_biases") or not facts.count:
            continue
        rate = float(np.nan_to_num(rates[:, min(place, rates.shape[1] - 1)]).mean())
        total = rate * facts.steps_taken * float(group.get("weight_decay") or 0)
        momentum = group.get("momentum")
        if isinstance(momentum, (int, float)) and momentum < 1:
            total /= 1 - momentum
        if total > worst:
            worst, decay = total, float(group["weight_decay"])
    shrink = 1 - math.exp(-worst)
    if not facts.has_layer("Norm") or shrink < limit.least:
        return None
    text = (
        f"weight decay {decay:g} acts on norms and biases; by itself it shrinks them by {shrink:.0%} in this run"
    )
    evidence = [Evidence(text, {"weight_decay": decay, "shrink": shrink}, layers=tuple(facts.norms))]
    groups = f"onepass.optim.no_decay_groups(model, {decay:g})[0]"
    cure = [
        Cure("Exempt norms and biases.", cures.optimizer_with(facts, parameters=groups, weight_decay=None)),
        Cure("Decay less.", cures.optimizer_with(facts, weight_decay=decay / 10)),
    ]
    confidence = "high" if shrink > limit.most else "medium" if shrink > limit.shrink else "low"
    return found("decay_on_norms", confidence, evidence, cure)

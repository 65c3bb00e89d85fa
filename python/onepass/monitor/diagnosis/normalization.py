"""Rules on batch norm: stale running statistics, statistics of small batches."""

from __future__ import annotations

import math

from onepass.monitor.diagnosis.facts import Facts, finite, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule

_DISTANCE = "median distance of batch and running statistics, in deviations"


def _distances(facts: Facts) -> dict[str, float]:
    """Returns for each batch norm its batches' distance from the running statistics, in the second half."""
    made = {}
    for name in facts.layers_with("running_distance"):
        _, values = facts.layer(name, "running_distance")
        made[name] = median_of(values[len(values) // 2 :])
    return made


@rule(
    "normalization",
    "Batch norm's running statistics do not follow the batches, so evaluation normalises by something else.",
    severity=0.95,
    source="Ioffe and Szegedy 2015, section 3.1; torch.nn.BatchNorm2d, momentum; Wu and Johnson 2021, section 3",
    explains=("generalization_gap", "overconfidence", "label_noise"),
    remembered=(0.05, "(1 - momentum)^steps: weight of the initial 0 and 1", "by then they should be forgotten"),
    distance=(0.5, _DISTANCE, "n values scatter by sqrt(1.5 / n), 8 by 0.43"),
    batch=(8.0, "examples of a batch, at least", "below, batches scatter that much by themselves"),
    gap=(2.0, "validation loss / loss in training mode", "generalisation costs less while statistics agree"),
)
def stale_running_statistics(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for running statistics that are far from the batches', or that have not had the time to follow."""
    if not facts.norms or facts.count < 20:
        return None
    known = [one for one in (facts.layer_settings(name).get("momentum") for name in facts.norms) if one]
    momentum = min((float(one) for one in known), default=float("nan"))
    remembered = (1 - momentum) ** facts.steps_taken
    far = {name: one for name, one in _distances(facts).items() if one > limit.distance}
    val = finite(facts.epoch_column("val_loss"))
    gap = float(val[-1]) / facts.last_loss if len(val) and facts.last_loss > 0 else float("nan")
    is_stale, is_worse = remembered > limit.remembered, gap > limit.gap
    is_far = len(far) * 2 >= len(facts.norms) and not facts.batch < limit.batch
    # Without a validation loss the distance has to do by itself.
    if is_far + is_stale + (is_worse or not len(val)) < 2 or not (is_far or is_stale):
        return None
    evidence = []
    if far:
        worst = max(far, key=lambda name: far[name])
        text = f"the running statistics of layer {worst} are {far[worst]:.2g} deviations from those of the batches"
        evidence.append(Evidence(text, {"distance": far[worst]}, layers=tuple(far)))
    if is_stale:
        text = f"with momentum {momentum:g} the initial statistics still count {remembered:.0%}"
        text += f" after {facts.steps_taken} steps"
        evidence.append(Evidence(text, {"momentum": momentum, "remembered": remembered}))
    if is_worse:
        text = f"the validation loss is {val[-1]:.3g}, the loss in training mode {facts.last_loss:.3g}"
        evidence.append(Evidence(text, {"val_loss": float(val[-1]), "loss": facts.last_loss}))
    name = facts.norms[0]
    cure = [
        Cure(
            "Let the statistics follow faster: torch's momentum is 0.1.",
            f'model.get_submodule("{name}").momentum = 0.1'
            + (f"  # and the other {len(facts.norms) - 1}" if len(facts.norms) > 1 else ""),
        ),
        Cure(
            "Compute them again from the data before evaluation (precise batch norm).",
            "torch.optim.swa_utils.update_bn(train_loader, model)",
        ),
    ]
    return found(
        "stale_running_statistics", "high" if is_far and (is_stale or is_worse) else "medium", evidence, cure
    )


@rule(
    "normalization",
    "Batch norm's statistics come from so few values that they are mostly noise.",
    severity=0.8,
    source="Ioffe 2017 (batch renormalization), section 1; Wu and He 2018 (group normalization), figure 1",
    explains=(
        "generalization_gap",
        "plateau",
        "exploding_gradients",
        "stale_running_statistics",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "label_noise",
        "no_warmup",
    ),
    batch=(6.0, "examples of a batch", "the error grows below 8 (Wu and He 2018)"),
    distance=(0.6, _DISTANCE, "n values scatter by sqrt(1.5 / n), 4 by 0.61"),
)
def small_batch_statistics(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for small batches, and batch statistics that scatter about the running ones."""
    batch = facts.batch
    if not facts.norms or not batch < limit.batch:
        return None
    far = {name: one for name, one in _distances(facts).items() if one > limit.distance}
    text, values = f"a batch has {batch:g} examples", {"batch": batch}
    if far:
        worst = max(far, key=lambda name: far[name])
        text += f"; its statistics in layer {worst} are {far[worst]:.2g} deviations from the running ones"
        values["distance"] = far[worst]
    evidence = [Evidence(text, values, layers=tuple(far or facts.norms))]
    confidence = "low" if not far else "high" if len(far) * 2 >= len(facts.norms) else "medium"
    name = facts.norms[0]
    groups = f"nn.GroupNorm({_groups_of(facts, name)})"
    cure = [
        Cure(
            "Use larger batches, 32 and more; activation checkpointing makes room.",
            "loader = DataLoader(dataset, batch_size=32, shuffle=True)",
        ),
        Cure("Normalise by groups of channels.", f'model.set_submodule("{name}", {groups})  # and the others'),
        Cure("Share the statistics of all processes.", "model = nn.SyncBatchNorm.convert_sync_batchnorm(model)"),
    ]
    return found("small_batch_statistics", confidence, evidence, cure)


def _groups_of(facts: Facts, name: str) -> str:
    """The arguments of a GroupNorm: up to 8 groups, by the weight and the bias that the header counts."""
    parameters = facts.layer_settings(name).get("parameters")
    if not isinstance(parameters, int) or parameters < 2:
        return "8, channels"
    channels = parameters // 2
    return f"{math.gcd(8, channels)}, {channels}"

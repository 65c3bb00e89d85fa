"""Rules on batch norm: stale running statistics, statistics of small batches."""

from __future__ import annotations

import math

from onepass.monitor.diagnosis.facts import Facts, finite, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule


def _distances(facts: Facts) -> dict[str, float]:
    """Of each batch norm how far the batch's statistics are from the running ones, in the second half of the run."""
    made = {}
    for name in facts.layers_with("running_distance"):
        _, values = facts.layer(name, "running_distance")
        made[name] = median_of(values[len(values) // 2 :])
    return made


def _loss_gap(facts: Facts) -> tuple[float, float]:
    """The last loss in training mode, and the last validation loss."""
    known = finite(facts.epoch_column("val_loss"))
    return facts.last_loss, float(known[-1]) if len(known) else float("nan")


@rule(
    "normalization",
    "Batch norm's running statistics do not follow the batches, so evaluation normalises by something else.",
    severity=0.95,
    source="Ioffe and Szegedy 2015, section 3.1; torch.nn.BatchNorm2d, momentum; Wu and Johnson 2021, section 3",
    explains=("generalization_gap", "overconfidence", "label_noise"),
    remembered=(
        0.05,
        "(1 - momentum)^steps, the weight of the initial 0 and 1",
        "by then they should be forgotten",
    ),
    distance=(
        0.5,
        "distance of batch and running statistics in deviations",
        "batches of 8 and more scatter by sqrt(1.5 / 8) = 0.43",
    ),
    gap=(
        2.0,
        "validation loss / loss in training mode",
        "the two modes differ only in the statistics and what generalisation costs",
    ),
)
def stale_running_statistics(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for running statistics that are far from the batches', or that have not had the time to follow."""
    if not facts.norms or facts.count < 20:
        return None
    momentum = [facts.layer_settings(name).get("momentum") for name in facts.norms]
    known = [float(one) for one in momentum if isinstance(one, (int, float))]
    remembered = (1 - min(known)) ** facts.count if known else float("nan")
    far = {name: one for name, one in _distances(facts).items() if one > limit.distance}
    train, val = _loss_gap(facts)
    gap = val / train if train > 0 else float("nan")
    is_stale = remembered > limit.remembered
    is_far = len(far) * 2 >= len(facts.norms) and not facts.batch < 8
    if not (is_far and (is_stale or gap > limit.gap)) and not (is_stale and gap > limit.gap):
        return None
    evidence = []
    if far:
        worst = max(far, key=lambda name: far[name])
        evidence.append(
            Evidence(
                f"the running statistics of {worst} are {far[worst]:.2g} deviations from those of the batches",
                {"distance": far[worst]},
                layers=tuple(far),
            )
        )
    if is_stale:
        evidence.append(
            Evidence(
                f"with momentum {min(known):g} the initial statistics still count {remembered:.0%} after {facts.count} steps",
                {"momentum": min(known), "remembered": remembered},
            )
        )
    if gap > limit.gap:
        evidence.append(
            Evidence(
                f"the validation loss is {val:.3g}, the loss in training mode {train:.3g}",
                {"val_loss": val, "loss": train},
            )
        )
    cure = [
        Cure(
            "Let the statistics follow faster: torch's momentum is 0.1.",
            "for m in model.modules():\n    if isinstance(m, nn.modules.batchnorm._BatchNorm):\n        m.momentum = 0.1",
        ),
        Cure(
            "Compute them again from the data before evaluation (precise batch norm).",
            "torch.optim.swa_utils.update_bn(train_loader, model)",
        ),
    ]
    sure = sum((bool(far) and is_far, is_stale, gap > limit.gap))
    return found("stale_running_statistics", "high" if sure >= 2 and is_far else "medium", evidence, cure)


@rule(
    "normalization",
    "Batch norm's statistics come from so few values that they are mostly noise.",
    severity=0.8,
    source="Ioffe 2017 (batch renormalization), section 1; Wu and He 2018 (group normalization), figure 1",
    explains=(
        "generalization_gap",
        "plateau",
        "stale_running_statistics",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "label_noise",
        "no_warmup",
    ),
    batch=(6.0, "examples of a batch", "Wu and He 2018: the error grows below 8"),
    distance=(
        0.6,
        "distance of batch and running statistics in deviations",
        "n values scatter by sqrt(1.5 / n): 4 by 0.61",
    ),
)
def small_batch_statistics(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for small batches, and batch statistics that scatter about the running ones."""
    if not facts.norms:
        return None
    batch = facts.batch
    far = {name: one for name, one in _distances(facts).items() if one > limit.distance}
    if not batch < limit.batch and not (math.isnan(batch) and far):
        return None
    if not far:
        if not batch < limit.batch / 2:
            return None
        evidence = [Evidence(f"a batch has {batch:g} examples", {"batch": batch}, layers=tuple(facts.norms))]
        return found("small_batch_statistics", "low", evidence, _cures_of_small(facts))
    worst = max(far, key=lambda name: far[name])
    evidence = [
        Evidence(
            f"a batch has {batch:g} examples; its statistics in {worst} are {far[worst]:.2g} deviations from the running ones",
            {"batch": batch, "distance": far[worst]},
            layers=tuple(far),
        )
    ]
    many = len(far) * 2 >= len(facts.norms)
    return found(
        "small_batch_statistics",
        "high" if many and batch < limit.batch else "medium",
        evidence,
        _cures_of_small(facts),
    )


def _cures_of_small(facts: Facts) -> list[Cure]:
    name = facts.norms[0]
    return [
        Cure(
            "Use larger batches (32 and more); activation checkpointing makes room.",
            "loader = DataLoader(dataset, batch_size=32, shuffle=True)",
        ),
        Cure(
            "Normalise by groups of channels, which need no batch.",
            f'norm = model.get_submodule("{name}"); model.set_submodule("{name}", nn.GroupNorm(min(8, norm.num_features), norm.num_features))',
        ),
        Cure("Share statistics over the processes.", "model = nn.SyncBatchNorm.convert_sync_batchnorm(model)"),
    ]

"""Rules on what training and validation say together: the gap, overconfidence, wrong labels."""

from __future__ import annotations

import math

import numpy as np

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import Facts, finite
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule


def _last(facts: Facts, name: str) -> float:
    known = finite(facts.epoch_column(name))
    return float(known[-1]) if len(known) else float("nan")


def _regularizers(facts: Facts) -> list[Cure]:
    decay = max((float(group.get("weight_decay") or 0) for group in facts.optimizer_groups), default=0.0)
    made = [
        Cure(
            "Augment the data, the strongest cure where it can be had.",
            'augment = onepass.augment.Compose([onepass.augment.RandomAffine(10, translate=(0.1, 0.1))], layout="NCHW")',
        ),
        Cure(
            "Decay the weights (decoupled), but not norms and biases.",
            f"optimizer = AdamW(onepass.optim.no_decay_groups(model, {max(0.05, 5 * decay):.2g})[0], lr={facts.base_lr:.2g})",
        ),
        Cure("Smooth the labels.", "loss_of = onepass.nn.CrossEntropyLoss(label_smoothing=0.1)"),
        Cure("Drop units before the last layer.", "model = nn.Sequential(*layers, onepass.nn.Dropout(0.5), head)"),
    ]
    val = facts.epoch_column("val_loss")
    if len(finite(val)):
        best = int(np.nanargmin(val))
        made.append(Cure(f"Stop early: the validation loss was least in epoch {best}.", f"epochs = {best + 1}"))
    return made


@rule(
    "generalization",
    "The network fits the data to train on far better than data it has not seen.",
    severity=0.6,
    source="Goodfellow et al. 2016, sections 5.2 and 7; Zhang et al. 2017",
    explains=("overconfidence",),
    accuracy=(
        0.04,
        "training accuracy - validation accuracy",
        "four in a hundred are clear of the scatter of 500 examples (2 deviations: 0.02)",
    ),
    loss=(
        0.05,
        "(validation loss - training loss) / first loss",
        "the gap of a healthy run is a few hundredths of ln(classes)",
    ),
    rise=(1.1, "last validation loss / its least", "batches and seeds move it by less"),
)
def generalization_gap(facts: Facts, limit: Limits) -> Finding | None:
    """Compares the last epochs' losses and accuracies."""
    train, val = _last(facts, "train_loss"), _last(facts, "val_loss")
    val_curve = finite(facts.epoch_column("val_loss"))
    if len(val_curve) < 3 or math.isnan(train) or not facts.has_learned:
        return None
    relative = (val - train) / facts.first_loss
    rise = val / float(val_curve.min())
    accuracy = _last(facts, "train_accuracy") - _last(facts, "val_accuracy")
    is_wide = relative > limit.loss
    worse = accuracy > limit.accuracy
    rises = rise > limit.rise
    # Where both recognise as much, a gap of the losses is one of confidence: that is overconfidence's.
    if not is_wide or not (rises if math.isnan(accuracy) else worse):
        return None
    evidence = [
        Evidence(
            f"the training loss is {train:.3g}, the validation loss {val:.3g}",
            {"train_loss": train, "val_loss": val},
        )
    ]
    if worse:
        evidence.append(
            Evidence(f"the training accuracy is {accuracy:.1%} above that of validation", {"accuracy": accuracy})
        )
    if rises:
        best = int(np.nanargmin(facts.epoch_column("val_loss")))
        evidence.append(
            Evidence(
                f"the validation loss was least in epoch {best}, and is {rise:.2f} times that",
                {"rise": rise, "epoch": best},
            )
        )
    confidence = "high" if worse and (rises or relative > 2 * limit.loss) else "medium"
    return found("generalization_gap", confidence, evidence, _regularizers(facts))


@rule(
    "generalization",
    "The network is surer of its predictions than it is right.",
    severity=0.5,
    source="Guo et al. 2017; Mueller et al. 2019 (label smoothing)",
    calibration=(
        0.05,
        "expected calibration error on the data for validation",
        "Guo et al. report 4 to 16 % for nets that are not calibrated",
    ),
    excess=(
        0.03,
        "mean confidence - accuracy on the data for validation",
        "an error of 500 examples scatters by 0.01",
    ),
)
def overconfidence(facts: Facts, limit: Limits) -> Finding | None:
    """Compares confidence and accuracy on the data for validation."""
    error = _last(facts, "val_calibration_error")
    accuracy, confidence = _last(facts, "val_accuracy"), _last(facts, "val_confidence")
    excess = confidence - accuracy
    if not error > limit.calibration or excess < limit.excess:
        return None
    evidence = [
        Evidence(f"the calibration error on the data for validation is {error:.1%}", {"calibration_error": error})
    ]
    if not math.isnan(excess):
        evidence.insert(
            0,
            Evidence(
                f"predictions for validation have the confidence {confidence:.1%}, and {accuracy:.1%} of them are right",
                {"confidence": confidence, "accuracy": accuracy},
            ),
        )
    cure = [
        Cure(
            "Scale the logits by a temperature that is fitted on data for validation.",
            "logits = model(x) / temperature  # the one that makes the validation loss least",
        ),
        Cure("Smooth the labels.", "loss_of = onepass.nn.CrossEntropyLoss(label_smoothing=0.1)"),
        Cure("Use the same temperature in training and evaluation.", "loss = loss_of(model(x), y)"),
        Cure(
            "Average the weights.",
            cures.optimizer_with(facts, ema_decay=0.999) if facts.is_ours else "averaged = AveragedModel(model)",
        ),
    ]
    confident = "medium" if math.isnan(excess) else "high"
    return found("overconfidence", confident if facts.has_learned else "low", evidence, cure)


@rule(
    "generalization",
    "A share of the labels is probably wrong: right predictions come first, memory of single examples later.",
    severity=0.9,
    source="Zhang et al. 2017; Arpit et al. 2017; Song et al. 2022 (survey), section 2",
    explains=("generalization_gap", "overconfidence", "plateau"),
    drop=(
        0.04,
        "best validation accuracy - last",
        "clean data: the loss rises again, but the accuracy hardly falls",
    ),
    ahead=(
        0.05,
        "validation accuracy - training accuracy, no dropout",
        "only errors in the data to train on do that",
    ),
    late=(
        0.15,
        "rise of the training accuracy after the best validation",
        "what is learned then helps no other example",
    ),
)
def label_noise(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for a validation accuracy that falls while the network memorises."""
    train, val = facts.epoch_column("train_accuracy"), facts.epoch_column("val_accuracy")
    if len(finite(val)) < 4 or len(finite(train)) < 4:
        return None
    best = int(np.nanargmax(val))
    drop = float(val[best] - finite(val)[-1])
    late = float(finite(train)[-1] - train[best])
    rise = _last(facts, "val_loss") / float(np.nanmin(facts.epoch_column("val_loss")))
    if drop > limit.drop and late > limit.late:
        evidence = [
            Evidence(
                f"the validation accuracy falls from {val[best]:.1%} in epoch {best} to {finite(val)[-1]:.1%}, while that of training rises by {late:.1%}",
                {"drop": drop, "late": late, "epoch": best},
            ),
            Evidence(f"the validation loss is {rise:.1f} times its least", {"rise": rise}),
        ]
        confidence = "high" if drop > 1.5 * limit.drop else "medium"
        return found("label_noise", confidence, evidence, _cures_of_noise(best))
    return None


def _cures_of_noise(best: int) -> list[Cure]:
    return [
        Cure(
            "Look at the examples of the largest loss: wrong labels are among them.",
            'losses = onepass.nn.functional.cross_entropy(model(x), y, reduction="none"); worst = losses.topk(50).indices',
        ),
        Cure(f"Stop early, at epoch {best}, before single examples are memorised.", f"epochs = {best + 1}"),
        Cure(
            "Smooth the labels: wrong ones then pull less.",
            "loss_of = onepass.nn.CrossEntropyLoss(label_smoothing=0.2)",
        ),
    ]

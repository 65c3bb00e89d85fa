"""Rules on what training and validation say together: the gap, overconfidence, wrong labels."""

from __future__ import annotations

import math

import numpy as np

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import Facts, finite
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule

_SMOOTHER = "loss_of = onepass.nn.CrossEntropyLoss(label_smoothing={})"


def _last(facts: Facts, name: str) -> float:
    known = finite(facts.epoch_column(name))
    return float(known[-1]) if len(known) else float("nan")


def _rise_of_validation(facts: Facts) -> tuple[float, int]:
    """The last validation loss over its least, and the epoch of that; nan and 0 if there is none."""
    curve = facts.epoch_column("val_loss")
    if not len(finite(curve)):
        return float("nan"), 0
    best = int(np.nanargmin(np.where(np.isfinite(curve), curve, np.nan)))
    return (_last(facts, "val_loss") / float(curve[best]) if curve[best] > 0 else float("nan")), best


@rule(
    "generalization",
    "The network fits the data to train on far better than data it has not seen.",
    severity=0.6,
    source="Goodfellow et al. 2016, sections 5.2 and 7; Zhang et al. 2017",
    explains=("overconfidence",),
    accuracy=(0.04, "training accuracy - validation accuracy", "500 examples scatter by 0.02 (two deviations)"),
    loss=(0.05, "(validation loss - training loss) / first loss", "a good fit has a few hundredths"),
    rise=(1.1, "last validation loss / its least", "epochs of a good fit move it by less"),
)
def generalization_gap(facts: Facts, limit: Limits) -> Finding | None:
    """Compares the last epochs' losses and accuracies."""
    train, val = _last(facts, "train_loss"), _last(facts, "val_loss")
    if len(finite(facts.epoch_column("val_loss"))) < 3 or math.isnan(train) or not facts.has_learned:
        return None
    relative = (val - train) / facts.first_loss
    rise, best = _rise_of_validation(facts)
    accuracy = _last(facts, "train_accuracy") - _last(facts, "val_accuracy")
    worse, rises = accuracy > limit.accuracy, rise > limit.rise
    # Where both recognise as much, a gap of the losses is one of confidence: that is overconfidence's.
    if not relative > limit.loss or not (rises if math.isnan(accuracy) else worse):
        return None
    text = f"the training loss is {train:.3g}, the validation loss {val:.3g}"
    evidence = [Evidence(text, {"train_loss": train, "val_loss": val})]
    if worse:
        text = f"the training accuracy is {accuracy:.1%} above that of validation"
        evidence.append(Evidence(text, {"accuracy": accuracy}))
    if rises:
        text = f"the validation loss was least in epoch {best}, and is {rise:.2f} times that"
        evidence.append(Evidence(text, {"rise": rise, "epoch": best}))
    confidence = "high" if worse and (rises or relative > 2 * limit.loss) else "medium"
    return found("generalization_gap", confidence, evidence, _regularizers(facts, best))


def _regularizers(facts: Facts, best: int) -> list[Cure]:
    decay = max((float(group.get("weight_decay") or 0) for group in facts.optimizer_groups), default=0.0)
    groups = f"onepass.optim.no_decay_groups(model, {max(0.05, 5 * decay):.2g})[0]"
    affine = 'augment = onepass.augment.Compose([onepass.augment.RandomAffine(10)], layout="NCHW")'
    return [
        Cure("Augment the data, the strongest cure where it can be had.", affine),
        Cure(
            "Decay the weights (decoupled), but not norms and biases.",
            f"optimizer = onepass.optim.AdamW({groups}, lr={facts.base_lr:.2g})",
        ),
        Cure("Smooth the labels.", _SMOOTHER.format(0.1)),
        Cure("Drop units before the last layer.", "model = nn.Sequential(*layers, onepass.nn.Dropout(0.5), head)"),
        Cure(f"Stop early: the validation loss was least in epoch {best}.", f"epochs = {best + 1}"),
    ]


@rule(
    "generalization",
    "The network is surer of its predictions than it is right.",
    severity=0.5,
    source="Guo et al. 2017; Mueller et al. 2019 (label smoothing)",
    calibration=(0.05, "expected calibration error in validation", "nets without calibration have 0.04 to 0.16"),
    excess=(0.03, "mean confidence - accuracy in validation", "500 examples scatter by 0.01"),
)
def overconfidence(facts: Facts, limit: Limits) -> Finding | None:
    """Compares confidence and accuracy on the data for validation."""
    error = _last(facts, "val_calibration_error")
    accuracy, confidence = _last(facts, "val_accuracy"), _last(facts, "val_confidence")
    excess = confidence - accuracy
    if not error > limit.calibration or excess < limit.excess:
        return None
    text = f"the calibration error in validation is {error:.1%}"
    evidence = [Evidence(text, {"calibration_error": error})]
    if not math.isnan(excess):
        text = f"predictions in validation have the confidence {confidence:.1%}, and {accuracy:.1%} are right"
        evidence.insert(0, Evidence(text, {"confidence": confidence, "accuracy": accuracy}))
    average = cures.optimizer_with(facts, ema_decay=0.999) if facts.is_ours else "averaged = AveragedModel(model)"
    cure = [
        Cure(
            "Divide the logits by a temperature that makes the validation loss least.",
            "logits = model(x) / temperature",
        ),
        Cure("Smooth the labels.", _SMOOTHER.format(0.1)),
        Cure("Use the same temperature in training and evaluation.", "loss = loss_of(model(x), y)"),
        Cure("Average the weights.", average),
    ]
    sure = "medium" if math.isnan(excess) else "high"
    return found("overconfidence", sure if facts.has_learned else "low", evidence, cure)


@rule(
    "generalization",
    "Labels are probably wrong: right predictions come first, memory of single examples later.",
    severity=0.9,
    source="Zhang et al. 2017; Arpit et al. 2017; Song et al. 2022 (survey), section 2",
    explains=("generalization_gap", "overconfidence", "plateau"),
    drop=(0.04, "best validation accuracy - last", "with right labels the loss rises, the accuracy hardly falls"),
    late=(
        0.08,
        "rise of the training accuracy after that best",
        "four times its scatter; it helps no other example",
    ),
    ahead=(0.1, "validation accuracy - training accuracy", "wrong labels do that to training, or augmentation"),
)
def label_noise(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for a validation accuracy that falls while the network memorises, or is far ahead of training's."""
    train, val = facts.epoch_column("train_accuracy"), facts.epoch_column("val_accuracy")
    if len(finite(val)) < 4 or len(finite(train)) < 4:
        return None
    best = int(np.nanargmax(val))
    last, rise = _last(facts, "val_accuracy"), _rise_of_validation(facts)[0]
    drop, late = float(val[best]) - last, _last(facts, "train_accuracy") - float(train[best])
    if drop > limit.drop and late > limit.late:
        text = f"the validation accuracy falls from {val[best]:.1%} in epoch {best} to {last:.1%}"
        text += f", while that of training rises by {late:.1%}"
        evidence = [Evidence(text, {"drop": drop, "late": late, "epoch": best})]
        if not math.isnan(rise):
            evidence.append(Evidence(f"the validation loss is {rise:.1f} times its least", {"rise": rise}))
        confidence = "high" if drop > 1.5 * limit.drop else "medium"
        return found("label_noise", confidence, evidence, _cures_of_noise(best))
    ahead = last - _last(facts, "train_accuracy")
    if not (ahead > limit.ahead and facts.has_learned) or facts.has_layer("Dropout"):
        return None
    text = f"the validation accuracy is {ahead:.1%} above that of training, and the network has no dropout"
    evidence = [Evidence(text + "; wrong labels do that, and strong augmentation does", {"ahead": ahead})]
    return found("label_noise", "low", evidence, _cures_of_noise(best))


def _cures_of_noise(best: int) -> list[Cure]:
    losses = 'losses = onepass.nn.functional.cross_entropy(model(x), y, reduction="none")'
    return [
        Cure("Look at the examples of the largest loss.", f"{losses}; worst = losses.topk(50).indices"),
        Cure(f"Stop early, at epoch {best}, before single examples are memorised.", f"epochs = {best + 1}"),
        Cure("Smooth the labels: wrong ones then pull less.", _SMOOTHER.format(0.2)),
    ]

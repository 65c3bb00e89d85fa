"""Rules on the learning rate over the whole run: too high, too low, at rest."""

from __future__ import annotations

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import FEW, Facts, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule

_CS231N = "CS231n notes, 'Ratio of weights:updates'"
_RATIO = "update norm / parameter norm"


@rule(
    "rate",
    "The steps are so large that the loss rises again or rests, or units die, instead of learning.",
    severity=0.7,
    source=f"Goodfellow et al. 2016, section 11.4.1; Smith 2017, section 3.3; {_CS231N}",
    explains=(
        "plateau",
        "dead_units",
        "vanishing_gradients",
        "learning_rate_too_low",
        "generalization_gap",
        "overconfidence",
    ),
    early=(0.1, f"largest {_RATIO} of the first 10 steps", "100 times CS231n's rule of thumb of 0.001"),
    later=(0.02, f"median {_RATIO} of the second half", "20 times the rule of thumb: no step is fine"),
    rise=(1.3, "a later eighth's median loss / the least before it", "the training loss falls, noise aside"),
    rest=(0.1, "fall of the loss from the second to the last quarter", "a run that learns falls further"),
    left=(0.15, "last loss / first loss", "below, the rate has done its work"),
)
def learning_rate_too_high(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for large steps, and for what they do: a loss that rises again or rests, units that die."""
    if facts.count < FEW or facts.is_learning_finished or facts.last_loss < limit.left * facts.first_loss:
        return None
    half, quarter, end = facts.count // 2, facts.count // 4, int(facts.step[-1])
    later, died = median_of(facts.update_ratio[half:]), facts.died
    second, last = median_of(facts.loss[quarter:half]), median_of(facts.loss[-quarter:])
    begins_large, stays_large = facts.early_ratio > limit.early, later > limit.later
    rises, rests = facts.rise > limit.rise, second - last < limit.rest * second
    if not (((begins_large or stays_large) and (rises or died)) or (stays_large and rests)):
        return None
    evidence = []
    if begins_large:
        text = f"one of the first 10 steps changes the weights by {facts.early_ratio:.0%} of their norm"
        evidence.append(Evidence(text, {"update_ratio": facts.early_ratio}, (1, 10)))
    if stays_large:
        text = f"a step of the second half changes the weights by {later:.1%} of their norm"
        evidence.append(Evidence(text, {"update_ratio": later}, (int(facts.step[half]), end)))
    if rises:
        course = ", ".join(f"{value:.3g}" for value in facts.course)
        text = f"the loss rises again: its medians in the eighths of the run are {course}"
        evidence.append(Evidence(text, {"rise": facts.rise}, (1, end)))
    evidence += facts.evidence_of_death()
    if rests:
        text = f"the loss went from {second:.3g} to {last:.3g} between the second and the last quarter"
        evidence.append(Evidence(text, {"second": second, "last": last}, (int(facts.step[quarter]), end)))
    confidence = "high" if rises or (died and rests) else "medium"
    return found("learning_rate_too_high", confidence, evidence, [cures.lower_rate(facts), cures.schedule(facts)])


@rule(
    "rate",
    "The loss falls steadily and slowly: the steps are small, and the run ends long before it is done.",
    severity=0.6,
    source=f"Smith 2017, section 3.3; {_CS231N}",
    explains=("plateau",),
    ratio=(5e-4, f"median {_RATIO}", "half of CS231n's rule of thumb of 0.001"),
    path=(0.1, "that ratio times the steps", "the weights cannot have moved by more than a tenth of themselves"),
    left=(0.4, "last loss / first loss", "a run that learns has passed the steepest part by its end"),
    pace=(0.15, "share of the whole fall that is in the last quarter", "an even fall has 0.25; a bent one less"),
)
def learning_rate_too_low(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for small updates, and a loss that still falls at an even pace or weights that have hardly moved."""
    if facts.count < FEW or facts.is_learning_finished:
        return None
    ratio, course = median_of(facts.update_ratio), facts.course
    left, path = facts.last_loss / facts.first_loss, ratio * facts.steps_taken
    whole = float(course[0] - course[-1])
    pace = float(course[5] - course[-1]) / whole if whole > 0 else 0.0
    if not (ratio < limit.ratio and left > limit.left and (pace > limit.pace or path < limit.path)):
        return None
    evidence = [
        Evidence(f"a step changes the weights by {ratio:.1e} of their norm (1e-3 is usual)", {"ratio": ratio}),
        Evidence(f"the loss is still {left:.0%} of the first", {"left": left}),
    ]
    if path < limit.path:
        text = f"all steps together can have moved the weights by {path:.2%} of their norm"
        evidence.append(Evidence(text, {"path": path}))
    if pace > limit.pace:
        evidence.append(Evidence(f"{pace:.0%} of the fall of the loss is in the last quarter", {"pace": pace}))
    epochs = 4 * max(1, len(facts.epoch_column("epoch")))
    longer = Cure("Train longer, if a higher rate does not work.", f"epochs = {epochs}")
    confidence = "high" if ratio < limit.ratio / 2 else "medium"
    return found("learning_rate_too_low", confidence, evidence, [cures.raise_rate(facts), longer])


@rule(
    "rate",
    "The loss rests far above what a fit would have, at a rate that is neither high nor low.",
    severity=0.1,
    source="Goodfellow et al. 2016, sections 8.2 and 11.4; torch.optim.lr_scheduler.ReduceLROnPlateau",
    progress=(0.05, "fall of the loss from the second to the last quarter", "half of what a slow run has"),
    left=(0.15, "last loss / first loss", "below, there is little left to gain"),
    accuracy=(0.97, "accuracy on the data to train on", "a fit has nothing left to learn"),
)
def plateau(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for a loss that has stopped falling while there is much left to learn."""
    if facts.count < FEW or facts.train_accuracy > limit.accuracy:
        return None
    quarter = facts.count // 4
    second, last = median_of(facts.loss[quarter : 2 * quarter]), median_of(facts.loss[-quarter:])
    fall, left = (second - last) / second, last / facts.first_loss
    if not (fall < limit.progress and left > limit.left):
        return None
    text = f"the loss went from {second:.3g} to {last:.3g} between the second and the last quarter"
    span = (int(facts.step[quarter]), int(facts.step[-1]))
    wider = Cure(
        "Give the network more of the input and more capacity, above all where it is narrowest.",
        "width = 2 * width",
    )
    cure = [cures.schedule(facts), wider, cures.raise_rate(facts, 3.0)]
    return found("plateau", "medium", [Evidence(text, {"fall": fall, "left": left}, span)], cure)

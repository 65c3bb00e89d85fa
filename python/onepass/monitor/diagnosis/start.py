"""Rules on how a run begins and breaks: divergence, a start without warm-up."""

from __future__ import annotations

import numpy as np

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import FEW, Facts, finite, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule

# What a network that was thrown away does not do any more.
_DAMAGE = (
    "dead_units",
    "vanishing_gradients",
    "learning_rate_too_low",
    "plateau",
    "generalization_gap",
    "overconfidence",
)


@rule(
    "start",
    "The loss became infinite, nan or many times what it was, and the network has not learned since.",
    severity=0.9,
    source="Smith 2017, section 3.3 (the range test stops there); Goodfellow et al. 2016, section 11.4.1",
    explains=("learning_rate_too_high", "no_warmup", *_DAMAGE),
    growth=(4.0, "last loss / first loss", "lr_range_test stops a sweep at the same factor"),
    peak=(10.0, "largest loss / first loss, if nothing is learned later", "no batch is ten times as hard"),
    learned=(0.9, "last loss / first loss, after such a peak", "below, the run has recovered"),
    bad=(0.02, "share of losses that are not finite, for high confidence", "a scaler's search costs fewer steps"),
)
def divergence(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for a loss that is not finite, or grew and did not come back."""
    if not facts.has_loss:
        return None
    cure = [cures.lower_rate(facts), cures.warm_up(facts), cures.clip(facts)]
    bad, known = np.flatnonzero(~np.isfinite(facts.loss)), finite(facts.loss)
    if len(bad):
        step, share = int(facts.step[bad[0]]), len(bad) / facts.count
        text = f"the loss is {facts.loss[bad[0]]} at step {step}, and not finite in {share:.0%} of the steps"
        text += f"; the last finite one is {known[-1]:.3g}" if len(known) else ""
        values = {"first_step": float(step), "share_of_steps": share}
        is_sure = not np.isfinite(facts.loss[-1]) or share > limit.bad
        evidence = [Evidence(text, values, (step, int(facts.step[-1])))]
        return found("divergence", "high" if is_sure else "medium", evidence, cure)
    if facts.count < 5 or not facts.first_loss > 0:
        return None
    last, peak = facts.last_loss / facts.first_loss, float(known.max()) / facts.first_loss
    if not (last > limit.growth or (peak > limit.peak and last > limit.learned)):
        return None
    where = int(facts.step[int(np.argmax(facts.loss))])
    text = f"the loss rises from {facts.first_loss:.3g} to {known.max():.3g} at step {where}"
    text += f", and ends at {facts.last_loss:.3g}"
    values = {"first": facts.first_loss, "largest": float(known.max()), "last": facts.last_loss}
    return found("divergence", "high", [Evidence(text, values, (where, int(facts.step[-1])))], cure)


@rule(
    "start",
    "The full rate from the first step on threw the weights away; later the same rate does no harm.",
    severity=0.8,
    source="Goyal et al. 2017, section 2.2; Liu et al. 2020 (RAdam), section 3; Xiong et al. 2020 (post-norm)",
    explains=("learning_rate_too_high", *_DAMAGE),
    early=(
        0.15,
        "largest update norm / parameter norm of the first 10 steps",
        "150 times CS231n's rule of thumb of 0.001",
    ),
    calm=(0.005, "median of that ratio in the second half", "5 times the rule: later steps are not the trouble"),
    rise=(1.3, "a later eighth's median loss / the least before it", "above, the rate is too high later, too"),
    spike=(1.5, "largest loss of the first tenth / first loss", "the batches of a good start differ by less"),
    leap=(20.0, "largest gradient norm of the first tenth / later median", "a good start has a few times that"),
    left=(0.1, "last loss / first loss, without a spike", "below, the start has done no lasting damage"),
    recovered=(0.9, "last loss / first loss and first eighth, but for Adam on attention", "more is wrong then"),
    start=(0.5, "first rate / largest rate", "a warm-up begins at a small share"),
)
def no_warmup(facts: Facts, limit: Limits) -> Finding | None:
    """Looks for a full rate at the first step that did damage, and a rate that does none later."""
    if facts.count < FEW or not facts.lr[0] > limit.start * facts.largest_lr:
        return None
    tenth = max(10, facts.count // 10)
    known, grads = finite(facts.loss[:tenth]), finite(facts.grad_norm[:tenth])
    peak = float(known.max()) / facts.first_loss if len(known) else 0.0
    usual = median_of(facts.grad_norm[tenth:])
    leap = float(grads.max()) / usual if len(grads) and usual > 0 else 0.0
    later = median_of(facts.update_ratio[facts.count // 2 :])
    is_calm = later < limit.calm and facts.rise < limit.rise
    if not (facts.early_ratio > limit.early and is_calm):
        return None
    spikes, leaps, died = peak > limit.spike, leap > limit.leap, facts.died
    left = facts.last_loss / facts.first_loss
    harmed = left > limit.left and not facts.is_learning_finished
    # Adam's first steps of full size are known to throw transformers away without any other trace.
    has_attention = facts.has_layer("Attention", "Transformer")
    is_known = has_attention and facts.is_adaptive
    recovers = facts.last_loss < limit.recovered * min(facts.first_loss, facts.course[0])
    if not ((recovers and (spikes or (harmed and (died or leaps)))) or (harmed and is_known)):
        return None
    text = f"one of the first 10 steps changes the weights by {facts.early_ratio:.0%} of their norm"
    text += f", a later one by {later:.2%}"
    evidence = [Evidence(text, {"early": facts.early_ratio, "later": later}, (1, 10))]
    if spikes:
        where = int(facts.step[int(np.nanargmax(facts.loss[:tenth]))])
        evidence.append(Evidence(f"the loss rises {peak:.1f}-fold by step {where}", {"spike": peak}, (1, where)))
    if leaps:
        text = f"the gradients leap to {leap:.0f} times their later norm"
        evidence.append(Evidence(text, {"leap": leap}, (1, tenth)))
    evidence += facts.evidence_of_death()
    if harmed:
        text = f"the loss falls afterwards, and is still {left:.0%} of the first at the end"
        evidence.append(Evidence(text, {"left": left}))
    text = f"the rate begins at {facts.lr[0]:.3g}; its largest is {facts.largest_lr:.3g}"
    evidence.append(Evidence(text, {"lr": float(facts.lr[0])}, (1, 1)))
    if has_attention:
        evidence.append(Evidence("the network has attention; with norms after the sum it needs a warm-up"))
    signs = sum(map(bool, (spikes, leaps, died, has_attention)))
    cure: list[Cure] = [cures.warm_up(facts), cures.lower_rate(facts, 3.0), cures.clip(facts)]
    return found("no_warmup", "high" if harmed and signs > 1 else "medium", evidence, cure)

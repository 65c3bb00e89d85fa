"""Rules on half precision: updates that are rounded away, a loss scale that does not settle."""

from __future__ import annotations

import numpy as np

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import FEW, Facts, finite, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule

# Steps in which a scaler may search: it begins at 2^16 and halves its scale at each overflow.
_SEARCH = 20
_AUTOCAST = "with torch.autocast(device_type, torch.bfloat16): loss = loss_of(model(x), y)"


@rule(
    "precision",
    "Most updates are smaller than half a unit in the last place of the weights, and rounded to nothing.",
    severity=0.9,
    source="Gupta et al. 2015; Micikevicius et al. 2018, section 3.1; Zamirai et al. 2020",
    explains=("learning_rate_too_low", "plateau"),
    share=(0.5, "median share of parameters whose update is lost", "at half, the mean step is half as long"),
    most=(0.8, "the same, for high confidence", "only one weight in five still moves"),
)
def lost_updates(facts: Facts, limit: Limits) -> Finding | None:
    """Looks at the share of parameters that a step left as they were in spite of a gradient."""
    share = median_of(facts.lost_share)
    if not share > limit.share:
        return None
    text = f"{share:.0%} of the parameters have a gradient and are what they were after a step"
    evidence = [Evidence(text, {"share": share}, (int(facts.step[0]), int(facts.step[-1])))]
    ratio = median_of(facts.update_ratio)
    if ratio < 2**-9:
        text = f"an update is {ratio:.1e} of the weights; bfloat16 rounds by up to 2^-9 = 2e-3"
        evidence.append(Evidence(text, {"update_ratio": ratio}))
    cure = [
        Cure("Keep float32 master weights.", cures.optimizer_with(facts, master_weights=True)),
        Cure("Keep what rounding loses: 2 bytes a parameter.", cures.optimizer_with(facts, rounding='"kahan"')),
        Cure("Round stochastically: no memory.", cures.optimizer_with(facts, rounding='"stochastic"')),
        Cure("Keep the weights in float32, and compute under autocast.", _AUTOCAST),
    ]
    # Stochastic rounding loses single updates by chance, and keeps their mean.
    groups = facts.optimizer_groups
    is_kept = any(one.get("rounding") in ("stochastic", "kahan") or one.get("master_weights") for one in groups)
    return found("lost_updates", "low" if is_kept else "high" if share > limit.most else "medium", evidence, cure)


@rule(
    "precision",
    "The loss scale grows until gradients overflow, again and again, and each time a step is lost.",
    severity=0.95,
    source="Micikevicius et al. 2018, section 3.2; torch.amp.GradScaler, growth_interval",
    explains=("plateau", "learning_rate_too_low", "exploding_gradients"),
    skipped=(0.05, f"share of skipped steps after the first {_SEARCH}", "100 times that of GradScaler's defaults"),
    most=(0.1, "the same, for high confidence", "one step in ten is lost"),
)
def scaler_thrashing(facts: Facts, limit: Limits) -> Finding | None:
    """Looks at the skipped steps after the scaler has searched."""
    later = facts.column("skipped")[_SEARCH:]
    known = finite(later)
    if facts.count < FEW or not len(known):
        return None
    share = float(known[-1] - known[0]) / (facts.step[-1] - facts.step[_SEARCH])
    if not share > limit.skipped:
        return None
    values = {"share": share}
    text = f"{share:.0%} of the steps after step {facts.step[_SEARCH]} are skipped"
    scales = finite(facts.column("scale")[_SEARCH:])
    if len(scales):
        drops = int((np.diff(scales) < 0).sum())
        values |= {"drops": drops, "least_scale": float(scales.min()), "largest_scale": float(scales.max())}
        text += f"; the scale moves between {scales.min():g} and {scales.max():g}, and falls {drops} times"
    evidence = [Evidence(text, values, (int(facts.step[_SEARCH]), int(facts.step[-1])))]
    cure = [
        Cure("Let the scale grow seldom.", "scaler = torch.amp.GradScaler(device, growth_interval=2000)"),
        Cure("Use bfloat16, whose range needs no scale.", _AUTOCAST),
        cures.clip(facts),
    ]
    return found("scaler_thrashing", "high" if share > limit.most else "medium", evidence, cure)

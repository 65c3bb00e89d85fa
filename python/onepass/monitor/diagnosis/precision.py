"""Rules on half precision: updates that are rounded away, a loss scale that does not settle."""

from __future__ import annotations

import numpy as np

from onepass.monitor.diagnosis import cures
from onepass.monitor.diagnosis.facts import Facts, finite, median_of
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Limits, found, rule


@rule(
    "precision",
    "Most updates are smaller than half a unit in the last place of the weights, and rounded to nothing.",
    severity=0.9,
    source="Gupta et al. 2015 (stochastic rounding); Zamirai et al. 2020 (bfloat16 training); Micikevicius et al. 2018, section 3.1",
    explains=("learning_rate_too_low", "plateau"),
    share=(
        0.5,
        "median share of the parameters whose update is lost",
        "at half, the mean step is half of what was asked for",
    ),
    most=(0.8, "the same, for high confidence", "only one weight in five still moves"),
)
def lost_updates(facts: Facts, limit: Limits) -> Finding | None:
    """Looks at the share of parameters that a step left as they were in spite of a gradient."""
    share = median_of(facts.lost_share)
    if not share > limit.share:
        return None
    # Stochastic rounding loses single updates by chance, and keeps their mean.
    is_kept = any(
        group.get("rounding") in ("stochastic", "kahan") or group.get("master_weights")
        for group in facts.optimizer_groups
    )
    evidence = [
        Evidence(
            f"{share:.0%} of the parameters have a gradient and are what they were after a step",
            {"share": share},
            (int(facts.step[0]), int(facts.step[-1])),
        )
    ]
    ratio = median_of(facts.update_ratio)
    if ratio < 2**-9:
        evidence.append(
            Evidence(
                f"an update is {ratio:.1e} of the weights; bfloat16 rounds to 2^-9 = 2e-3", {"update_ratio": ratio}
            )
        )
    cure = [
        Cure("Keep float32 master weights.", cures.optimizer_with(facts, master_weights=True)),
        Cure(
            "Keep what rounding loses (Kahan), 2 bytes a parameter.",
            cures.optimizer_with(facts, rounding='"kahan"'),
        ),
        Cure("Round stochastically, without memory.", cures.optimizer_with(facts, rounding='"stochastic"')),
        Cure(
            "Keep the weights in float32, and compute under autocast.",
            "with torch.autocast(device_type, torch.bfloat16):",
        ),
    ]
    if is_kept:
        return found("lost_updates", "low", evidence, cure)
    return found("lost_updates", "high" if share > limit.most else "medium", evidence, cure)


@rule(
    "precision",
    "The loss scale does not settle: it grows until gradients overflow, again and again, and each time a step is lost.",
    severity=0.95,
    source="Micikevicius et al. 2018, section 3.2; torch.amp.GradScaler (growth_interval 2000 loses one step in 2000)",
    explains=("plateau", "learning_rate_too_low", "exploding_gradients"),
    skipped=(0.05, "share of skipped steps after the first 20", "100 times what GradScaler's defaults lose"),
    most=(0.1, "the same, for high confidence", "one step in ten is lost"),
)
def scaler_thrashing(facts: Facts, limit: Limits) -> Finding | None:
    """Looks at the skipped steps after the scaler has searched."""
    skipped, scale = facts.column("skipped"), facts.column("scale")
    if facts.count < 40:
        return None
    later = skipped[20:]
    known = finite(later)
    if not len(known):
        return None
    share = float(known[-1] - known[0]) / len(later)
    if not share > limit.skipped:
        return None
    values = {"share": share}
    text = f"{share:.0%} of the steps after the 20th are skipped"
    scales = finite(scale[20:])
    if len(scales):
        drops = int((np.diff(scales) < 0).sum())
        values |= {"drops": drops, "least_scale": float(scales.min()), "largest_scale": float(scales.max())}
        text += f"; the scale moves between {scales.min():g} and {scales.max():g}, and falls {drops} times"
    evidence = [Evidence(text, values, (int(facts.step[20]), int(facts.step[-1])))]
    cure = [
        Cure(
            "Let the scale grow seldom: the default is every 2,000 steps.",
            "scaler = torch.amp.GradScaler(device, growth_interval=2000)",
        ),
        Cure("Use bfloat16, whose range needs no scale.", "with torch.autocast(device_type, torch.bfloat16):"),
        cures.clip(facts),
    ]
    return found("scaler_thrashing", "high" if share > limit.most else "medium", evidence, cure)

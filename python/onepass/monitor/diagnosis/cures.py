"""The code lines of the cures: with the optimizer class, the rates and the layers of the run."""

from __future__ import annotations

from onepass.monitor.diagnosis.facts import Facts, median_of
from onepass.monitor.diagnosis.finding import Cure

__all__ = ["clip", "initialise", "lower_rate", "optimizer_with", "raise_rate", "schedule", "warm_up"]


def _shown(value: object) -> str:
    """Writes an option as Python reads it: numbers with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def optimizer_with(facts: Facts, parameters: str = "model.parameters()", **changed: object) -> str:
    """Returns the line that makes the run's optimizer with some options changed; None leaves an option out."""
    group = facts.optimizer_groups[0] if facts.optimizer_groups else {}
    options: dict[str, object] = {"lr": facts.base_lr}
    if facts.momentum:
        options["momentum"] = facts.momentum
    if group.get("nesterov") is True:
        options["nesterov"] = True
    if group.get("weight_decay"):
        options["weight_decay"] = float(group["weight_decay"])
    options.update(changed)
    text = ", ".join(f"{name}={_shown(value)}" for name, value in options.items() if value is not None)
    return f"optimizer = {facts.optimizer}({parameters}, {text})"


def lower_rate(facts: Facts, factor: float = 10.0) -> Cure:
    """Returns the cure that divides the rate."""
    text = f"Lower the learning rate {factor:g}-fold; lr_range_test finds the largest one that works."
    return Cure(text, optimizer_with(facts, lr=facts.base_lr / factor))


def raise_rate(facts: Facts, factor: float = 10.0) -> Cure:
    """Returns the cure that multiplies the rate."""
    text = f"Raise the learning rate {factor:g}-fold; lr_range_test finds the largest one that works."
    return Cure(text, optimizer_with(facts, lr=facts.base_lr * factor))


def warm_up(facts: Facts) -> Cure:
    """Returns the cure that begins with a small rate."""
    steps = max(10, facts.steps_taken // 10)
    return Cure(
        f"Let the rate grow over the first {steps} steps.",
        f'scheduler = ScheduleLR(optimizer, "warmup({steps}) >> cosine({max(steps + 1, facts.steps_taken)})")',
    )


def schedule(facts: Facts) -> Cure:
    """Returns the cure that lowers the rate towards the end."""
    return Cure(
        "Lower the rate towards the end of the run: steps that are too coarse keep the loss from falling.",
        f'scheduler = ScheduleLR(optimizer, "cosine({max(1, facts.steps_taken)})")',
    )


def clip(facts: Facts) -> Cure:
    """Returns the cure that clips the norm of the gradients, at what the norm usually is."""
    usual = median_of(facts.grad_norm)
    most = min(usual, 10.0) if usual > 0 else 1.0
    if facts.is_ours:
        return Cure("Clip the norm of the gradients.", optimizer_with(facts, max_grad_norm=float(most)))
    line = f"onepass.optim.clip_grad_norm_(model.parameters(), {most:.2g})  # before optimizer.step()"
    return Cure("Clip the norm of the gradients.", line)


def initialise(layer: str) -> Cure:
    """Returns the cure that draws weights by which each layer keeps the size of its input."""
    return Cure(
        "Initialise so that each layer keeps the variance of its input.",
        f'nn.init.kaiming_normal_(model.get_submodule("{layer}").weight)  # and the other layers',
    )

"""The code lines of the cures: with the optimizer class, the rates and the layers of the run."""

from __future__ import annotations

from onepass.monitor.diagnosis.facts import Facts, median_of
from onepass.monitor.diagnosis.finding import Cure

__all__ = ["clip", "lower_rate", "number", "optimizer_with", "raise_rate", "schedule", "warm_up"]


def number(value: float) -> str:
    """Writes a number with two digits, as Python reads it."""
    return f"{value:.2g}"


def optimizer_with(facts: Facts, **changed: object) -> str:
    """Returns the line that makes the run's optimizer with some options changed."""
    group = facts.optimizer_groups[0] if facts.optimizer_groups else {}
    options: dict[str, object] = {"lr": facts.base_lr}
    if facts.momentum:
        options["momentum"] = facts.momentum
    if group.get("weight_decay"):
        options["weight_decay"] = group["weight_decay"]
    options.update(changed)
    shown = ", ".join(
        f"{name}={number(value) if isinstance(value, float) else value}" for name, value in options.items()
    )
    return f"optimizer = {facts.optimizer}(model.parameters(), {shown})"


def lower_rate(facts: Facts, factor: float = 10.0) -> Cure:
    """Returns the cure that divides the rate."""
    return Cure(
        f"Lower the learning rate {number(factor)}-fold; lr_range_test finds the largest one that works.",
        optimizer_with(facts, lr=facts.base_lr / factor),
    )


def raise_rate(facts: Facts, factor: float = 10.0) -> Cure:
    """Returns the cure that multiplies the rate."""
    return Cure(
        f"Raise the learning rate {number(factor)}-fold; lr_range_test finds the largest one that works.",
        optimizer_with(facts, lr=facts.base_lr * factor),
    )


def warm_up(facts: Facts) -> Cure:
    """Returns the cure that begins with a small rate."""
    steps = max(10, facts.count // 10)
    return Cure(
        f"Let the rate grow over the first {steps} steps.",
        f'scheduler = ScheduleLR(optimizer, "warmup({steps}) >> cosine({max(steps + 1, facts.count)})")',
    )


def schedule(facts: Facts) -> Cure:
    """Returns the cure that lowers the rate towards the end."""
    return Cure(
        "Lower the rate towards the end of the run: steps that are too coarse keep the loss from falling further.",
        f'scheduler = ScheduleLR(optimizer, "cosine({max(1, facts.count)})")',
    )


def clip(facts: Facts) -> Cure:
    """Returns the cure that clips the norm of the gradients, at what the norm usually is."""
    usual = median_of(facts.grad_norm)
    most = min(usual, 10.0) if usual > 0 else 1.0
    text = "Clip the norm of the gradients."
    if facts.is_ours:
        return Cure(text, optimizer_with(facts, max_grad_norm=float(most)))
    return Cure(
        text, f"onepass.optim.clip_grad_norm_(model.parameters(), {number(most)})  # before optimizer.step()"
    )

"""Finds where the updates of an optimizer can be seen: in itself, or in the one that it wraps."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


def stepping(optimizer: Any) -> Optimizer | None:
    """Finds the optimizer whose step calls its hooks, which may be one that this one wraps.

    Frameworks wrap optimizers in classes that only claim to be a torch.optim.Optimizer: such an object has no
    hooks, or hooks that nobody calls. Its param_groups are those of the optimizer inside.

    Returns:
        The optimizer, or None if there is none.
    """
    seen: list[Any] = []
    while not _calls_hooks(optimizer):
        seen.append(optimizer)
        inner = {id(other): other for other in _attributes(optimizer).values() if _is_inside(other, optimizer)}
        found = [other for other in inner.values() if all(other is not one for one in seen)]
        if len(found) != 1:
            return None
        optimizer = found[0]
    return optimizer  # type: ignore[no-any-return]  # it has hooks


def check_seen(scheduler: str, optimizer: Any) -> None:
    """Raises ValueError if the updates of an optimizer cannot be seen."""
    if stepping(optimizer) is None:
        raise ValueError(
            f"{scheduler}: follow must be calls for an optimizer whose updates cannot be seen, because neither it "
            f"nor one that it wraps calls step hooks, got 'optimizer' for {type(optimizer).__name__}"
        )


def _calls_hooks(optimizer: Any) -> bool:
    # Optimizer.__init__ makes the hooks and wraps the step of the class so that it calls them.
    return "_optimizer_step_post_hooks" in _attributes(optimizer) and getattr(
        type(optimizer).step, "hooked", False
    )


def _is_inside(other: Any, optimizer: Any) -> bool:
    if not isinstance(other, Optimizer):
        return False
    groups, own = other.param_groups, optimizer.param_groups
    return groups is own or (len(groups) > 0 and len(groups) == len(own) and groups[0] is own[0])


def _attributes(optimizer: Any) -> dict[str, Any]:
    return getattr(optimizer, "__dict__", {})

"""Writes checkpoints of Adam and AdamW in the layout of apex's FusedAdam, which counts steps in the param group.

`load_state_dict` of our classes takes that layout as it is.
"""

from __future__ import annotations

from typing import Any

__all__ = ["to_apex"]


def to_apex(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Turns a state_dict of `Adam` or `AdamW` into one that apex.optimizers.FusedAdam loads.

    Args:
        state_dict: What ``state_dict()`` returned. It is not changed; the tensors are shared.

    Returns:
        The same state with one ``step`` for each param group in place of one for each parameter. It does not say
        whether the decay is decoupled: FusedAdam takes that as an argument (``adam_w_mode``).

    Raises:
        ValueError: Parameters of one group have taken different numbers of steps, or the group uses amsgrad:
            FusedAdam supports neither. Or the state_dict is one of another rule.

    Example:
        >>> import torch
        >>> from onepass.optim import AdamW, to_apex
        >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = AdamW([weight])
        >>> weight.grad = torch.tensor([2.0])
        >>> optimizer.step()
        >>> state = to_apex(optimizer.state_dict())
        >>> state["param_groups"][0]["step"], sorted(state["state"][0])
        (1, ['exp_avg', 'exp_avg_sq'])

    Differs from torch: torch has no such function.

    Source: apex.optimizers.FusedAdam (its groups hold ``step`` and ``bias_correction``).
    """
    groups, state = [], {}
    for number, group in enumerate(state_dict["param_groups"]):
        if "amsgrad" not in group:
            raise ValueError(
                f"to_apex: state_dict must be one of Adam or AdamW, got options {sorted(group)} in "
                f"param_groups[{number}]"
            )
        own = {index: state_dict["state"][index] for index in group["params"] if index in state_dict["state"]}
        steps = {int(values["step"]) for values in own.values()}
        if len(steps) > 1:
            raise ValueError(
                f"to_apex: parameters of param_groups[{number}] must have taken the same number of steps, got "
                f"{sorted(steps)}"
            )
        if group["amsgrad"]:
            raise ValueError(f"to_apex: amsgrad must be False in param_groups[{number}], got True")
        groups.append({**group, "bias_correction": True, **({"step": steps.pop()} if steps else {})})
        for index, values in own.items():
            state[index] = {name: value for name, value in values.items() if name != "step"}
    return {"state": state, "param_groups": groups}

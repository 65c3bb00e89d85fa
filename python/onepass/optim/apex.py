"""Writes checkpoints of Adam and AdamW in the layout of apex's FusedAdam, which counts steps in the param group.

`load_state_dict` of our classes takes that layout as it is.
"""

from __future__ import annotations

from typing import Any

from onepass._arguments import told
from onepass.optim._lists.arguments import number
from onepass.optim._step.grouped import check_holds, check_state_dict

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
            FusedAdam supports neither. Or the state_dict is one of another rule, or a part is missing.
        TypeError: A part is of another kind than ``state_dict()`` makes it.

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
    check_state_dict("to_apex", state_dict, ())
    groups, state = [], {}
    for position, group in enumerate(state_dict["param_groups"]):
        if "amsgrad" not in group:
            raise ValueError(
                f"to_apex: state_dict must be one of Adam or AdamW, got options {told(sorted(group))} in "
                f"param_groups[{position}]"
            )
        own = {index: state_dict["state"][index] for index in group["params"] if index in state_dict["state"]}
        steps = {_steps_of(index, values) for index, values in own.items()}
        if len(steps) > 1:
            raise ValueError(
                f"to_apex: parameters of param_groups[{position}] must have taken the same number of steps, got "
                f"{sorted(steps)}"
            )
        if group["amsgrad"]:
            raise ValueError(f"to_apex: amsgrad must be False in param_groups[{position}], got True")
        groups.append({**group, "bias_correction": True, **({"step": steps.pop()} if steps else {})})
        for index, values in own.items():
            state[index] = {name: value for name, value in values.items() if name != "step"}
    return {"state": state, "param_groups": groups}


def _steps_of(index: Any, values: dict[str, Any]) -> int:
    place = f"state_dict['state'][{told(index)}]"
    check_holds("to_apex", place, values, "step")
    return int(number("to_apex", f"{place}['step']", values["step"]))

"""How parameters and states of half precision are kept between steps, and what is kept next to them.

The next step begins with a parameter's value, which is the stored parameter and what a state of its own adds:

==================  =============  ==================================================================
option              state          value
==================  =============  ==================================================================
rounding="kahan"    kahan_comp     param + kahan_comp, both of the parameter's dtype
master_weights      remainder      bfloat16: a float32, its upper 16 bits (rounded) the parameter
master_weights      master_param   float16: a float32, of which the parameter is a rounded copy
==================  =============  ==================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from onepass._arguments import told
from onepass._seed import check_seed
from onepass.optim._lists.layout import is_dense
from onepass.optim._lists.records import Precision

ROUNDINGS = ("nearest", "stochastic", "kahan")
# Options of a param group. Groups, and so checkpoints, hold only those that are not at their defaults, because
# torch does not know them.
DEFAULTS: dict[str, Any] = {
    "state_dtype": None,
    "rounding": "nearest",
    "master_weights": False,
    "seed": None,
    "state_format": None,
}
# Where the parameters of a group of shards are in the whole.
DRAW_PART = "draw_part"
# The first of them, which say what is done; the seed only says how.
_CONCERNING = ("state_dtype", "rounding", "master_weights")
# What a group keeps states in, besides floating point.
STATE_FORMATS = (None, "8bit")
LOW_STATES = ("kahan_comp", "remainder", "master_param")


_CODED_PARAMS = (torch.float32, torch.bfloat16, torch.float16)


def is_half(param: Tensor) -> bool:
    """True for the dtypes that are narrower than the arithmetic."""
    return param.dtype in (torch.bfloat16, torch.float16)


def option(group: dict[str, Any], name: str) -> Any:
    """The value of one of the options above for the group."""
    return group.get(name, DEFAULTS[name])


def not_default(options: dict[str, Any]) -> dict[str, Any]:
    """The options that a group has to hold: those that are not at their defaults."""
    return {name: value for name, value in options.items() if not _same(value, DEFAULTS[name])}


def _same(value: Any, default: Any) -> bool:
    # 1 and 0 are not True and False, so that the check of flags sees them.
    return type(value) is type(default) and bool(value == default)


def check_precision(name: str, group: dict[str, Any]) -> None:
    """Raises ValueError or TypeError if an option of the group makes no sense."""
    rounding, master, seed = (option(group, one) for one in ("rounding", "master_weights", "seed"))
    state_dtype = option(group, "state_dtype")
    if state_dtype not in (None, torch.float32, torch.bfloat16):
        raise ValueError(
            f"{name}: state_dtype must be None, torch.float32 or torch.bfloat16, got {told(state_dtype)}"
        )
    state_format = option(group, "state_format")
    if state_format not in STATE_FORMATS:
        raise ValueError(f'{name}: state_format must be None or "8bit", got {told(state_format)}')
    if state_format is not None and state_dtype is not None:
        raise ValueError(f'{name}: state_dtype must be None with state_format="8bit", got {told(state_dtype)}')
    if rounding not in ROUNDINGS:
        raise ValueError(f"{name}: rounding must be one of {', '.join(ROUNDINGS)}, got {told(rounding)}")
    if not isinstance(master, bool):
        raise TypeError(f"{name}: master_weights must be True or False, got {told(master)}")
    if master and rounding != "nearest":
        raise ValueError(
            f'{name}: rounding must be "nearest" with master_weights=True (nothing is lost), got {told(rounding)}'
        )
    if seed is None:
        return
    check_seed(name, seed, "an int or None")
    if rounding != "stochastic":
        raise ValueError(f'{name}: seed must be None unless rounding="stochastic", got {seed}')


def check_dtypes(name: str, group: dict[str, Any], params: list[Tensor]) -> None:
    """Raises ValueError if state_dtype or state_format does not go with a parameter of the group."""
    state_dtype = option(group, "state_dtype")
    for i, param in enumerate(params):
        if is_coded(group) and isinstance(param, Tensor) and param.dtype not in _CODED_PARAMS:
            raise ValueError(
                f"{name}: params[{i}] must be torch.float32, torch.bfloat16 or torch.float16 with "
                f'state_format="8bit", got {param.dtype}'
            )
        if not isinstance(param, Tensor) or state_dtype is None:
            return  # torch refuses what is not a parameter
        if param.dtype == torch.float64:
            raise ValueError(f"{name}: state_dtype must be None with torch.float64 params, got {state_dtype}")
        if state_dtype == torch.bfloat16 and param.dtype == torch.float16:
            raise ValueError(
                f"{name}: params[{i}] must not be torch.float16 with state_dtype=torch.bfloat16, got torch.float16"
            )


def check_concerns(name: str, groups: list[dict[str, Any]]) -> None:
    """Raises ValueError if an option concerns no parameter of the groups: it would be silently ignored."""
    for mode in ("stochastic", "kahan", "master"):
        asking = [group for group in groups if mode_of(group) == mode]
        params = [p for group in asking for p in group["params"]]
        narrow_states = any(option(group, "state_dtype") == torch.bfloat16 for group in asking)
        if not params or any(is_half(p) for p in params) or (mode == "stochastic" and narrow_states):
            continue
        asked = "master_weights=True" if mode == "master" else f"rounding={mode!r}"
        raise ValueError(
            f"{name}: params must hold a torch.bfloat16 or torch.float16 one with {asked}, got only "
            f"{', '.join(sorted({str(p.dtype) for p in params}))}"
        )


def check_changed(name: str, groups: list[dict[str, Any]], before: Sequence[tuple[Any, ...]]) -> None:
    """Raises ValueError if an option that a user has changed by hand concerns no parameter.

    It must concern one parameter of the groups that were changed, as what a new group asks for itself must
    concern that group.

    Args:
        name: The optimizer's class.
        groups: Its groups, whose options make sense.
        before: What each group had for the options of `DEFAULTS`, in their order; None where it had nothing.
    """
    changed = [
        group
        for group, had in zip(groups, before, strict=True)
        if any(group.get(one) != was for one, was in zip(_CONCERNING, had, strict=False))
    ]
    if changed:
        check_concerns(name, changed)
        check_concerns(name, groups)


def is_coded(group: dict[str, Any]) -> bool:
    """Whether the group keeps its states in 8 bits (codes.py)."""
    return group.get("state_format") is not None


def drawn_seed() -> int:
    """Draws a seed from torch's generator, so that torch.manual_seed makes an optimizer's draws reproducible."""
    with unset_fake_temporarily():
        return int(torch.randint(2**63 - 1, ()).item())


def mode_of(group: dict[str, Any]) -> str | None:
    """The group's rounding by the core's name, or None for rounding to nearest."""
    # None is no value of the two; a step that is compiled must not take it for the default.
    if group.get("master_weights", False) is not False:
        return "master"
    rounding = str(group.get("rounding", "nearest"))
    return None if rounding == "nearest" else rounding


def precision_of(name: str, group: dict[str, Any], first: int) -> Precision | None:
    """The options as the core takes them; first: number of the group's first parameter.

    Raises:
        ValueError, TypeError: An option was set to None by hand, which a step does not tell from its absence until
            it reads the options.
    """
    mode = mode_of(group)
    if mode == "None" or (mode == "master" and group["master_weights"] is None):
        check_precision(name, group)
    coded = is_coded(group)
    if mode is None and not coded:
        return None
    # A group of shards knows of which part of the whole its parameters are (_sharding/mesh.py).
    part = group.get(DRAW_PART)
    return {
        "mode": mode or "nearest",
        "seed": option(group, "seed") or 0,
        "first": first,
        "part": part,
        "coded": coded,
    }


def state_dtype_of(param: Tensor, group: dict[str, Any]) -> torch.dtype:
    """The dtype in which states of the parameter are made."""
    asked: torch.dtype | None = option(group, "state_dtype")
    if asked is not None:
        return asked
    return torch.float32 if option(group, "master_weights") and is_half(param) else param.dtype


def loaded_state_dtype(param: Tensor, group: dict[str, Any], saved: torch.dtype) -> torch.dtype:
    """The dtype that a loaded state gets: as `state_dtype_of`, but float32 states of halves stay float32."""
    if option(group, "state_dtype") is None and is_half(param) and saved == torch.float32:
        return saved
    return state_dtype_of(param, group)


def low_name(param: Tensor, group: dict[str, Any]) -> str | None:
    """The name of the state that holds what the parameter itself cannot; None if there is none."""
    mode = mode_of(group)
    if not is_half(param) or mode not in ("kahan", "master"):
        return None
    if mode == "kahan":
        return "kahan_comp"
    return "remainder" if param.dtype == torch.bfloat16 else "master_param"


def low_dtype(param: Tensor, name: str) -> torch.dtype:
    """The dtype of such a state."""
    dtypes = {"kahan_comp": param.dtype, "remainder": torch.int16, "master_param": torch.float32}
    return dtypes[name]


def make_low(param: Tensor, own: dict[str, Any], name: str) -> Tensor:
    """Makes the state `name` of a parameter, whatever has held its value so far, as exactly as it can."""
    param = param.detach() if is_dense(param) else param.detach().contiguous()
    value = _value(param, own)
    if name == "master_param":
        return torch.empty_like(param, dtype=torch.float32).copy_(value)
    if name == "kahan_comp":
        # An infinity has no rounding error.
        return torch.empty_like(param).copy_((value - param.float()).nan_to_num(0.0, 0.0, 0.0))
    rest = value.view(torch.int32) - (param.view(torch.int16).to(torch.int32) << 16)
    return torch.empty_like(param, dtype=torch.int16).copy_(rest.clamp(-(2**15), 2**15 - 1))


def _value(param: Tensor, own: dict[str, Any]) -> Tensor:
    """The float32 value of a parameter together with its state of low precision (csrc/math/rounding.h)."""
    stored = param.float()
    for name in LOW_STATES:
        kept = own.get(name)
        if not isinstance(kept, Tensor) or kept.dtype != low_dtype(param, name) or kept.shape != param.shape:
            continue
        if name == "remainder" and param.dtype != torch.bfloat16:
            continue
        low = torch.empty_like(param, dtype=kept.dtype).copy_(kept)
        if name == "master_param":
            return torch.where(low.to(param.dtype) == param, low, stored)
        if name == "kahan_comp":
            nearly = (stored + low.float() * (1 - 2.0**-8)).to(param.dtype)
            return torch.where(nearly == param, stored + low.float(), stored)
        rest = low.to(torch.int32)
        magnitude = param.view(torch.int16).to(torch.int32) & 0x7FFF
        foreign = ((magnitude == 0) & (rest < 0)) | ((magnitude == 0x7F80) & (rest > 0))
        bits = (param.view(torch.int16).to(torch.int32) << 16) + rest.masked_fill(foreign, 0)
        return bits.view(torch.float32)
    return stored

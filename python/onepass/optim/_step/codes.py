"""States in 8 bits: codes and scales, made of floating-point states and turned back (csrc/math/codes.h).

A state ``exp_avg`` becomes ``exp_avg_codes``, uint8 with its parameter's shape and strides. ``scales``, float32 of
shape (blocks, states), has the scale of each block of 32 elements in the order of memory, for all states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from onepass._arguments import told
from onepass.optim._lists.layout import is_dense, same_layout
from onepass.optim._step.precision import is_coded, state_dtype_of

__all__ = [
    "BLOCK",
    "SCALES",
    "all_decoded",
    "check_codes",
    "codes_name",
    "encoded",
    "fit_format",
    "make_coded",
    "names_of_codes",
    "stored_dtype",
]

BLOCK = 32
"""Elements that share a scale."""
SCALES = "scales"
_CODES = "_codes"
_ONE = 0x3F800000
_INFINITY = 0x7F800000
_SIGN = -(2**31)
_MAGNITUDE = 0x7FFFFFFF


def codes_name(name: str) -> str:
    """The key of a state's codes."""
    return name + _CODES


def stored_dtype(name: str) -> torch.dtype | None:
    """The dtype of what is stored under a key of a parameter's state; None if it is neither codes nor scales."""
    if name == SCALES:
        return torch.float32
    return torch.uint8 if name.endswith(_CODES) else None


def encoded(values: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes a state, rounding to nearest; a step rounds by dithers instead.

    Args:
        values: Floating point, dense.
        signed: Whether it is a moment of the gradient; else one of its square.

    Returns:
        The codes, uint8 with the layout of the values, and the scales (blocks,).
    """
    bits = _blocks(_flat(values).float()).view(torch.int32)
    magnitude = bits & _MAGNITUDE
    lost = magnitude >= _INFINITY
    top = torch.where(lost, torch.zeros_like(magnitude), magnitude).amax(1, keepdim=True)
    below = top - torch.where(lost, top, magnitude)
    part = below >> 2 if signed else (below.float() * (2 / 11)).to(torch.int32)
    top_of_dithers = _ONE + ((7 if signed else 8) + 16 << 23)
    u = ((top_of_dithers - part).view(torch.float32).to(torch.int32).add(1 << 15) >> 16) - 1
    flagged = lost.any(1, keepdim=True)
    if signed:
        u = torch.where(u < 1, torch.zeros_like(u), u | (bits >> 24 & 0x80))
    else:
        u = torch.where(flagged, u.clamp(1, 254), u.clamp(min=1))
    u = torch.where(magnitude == 0, torch.zeros_like(u), u)
    u = torch.where(lost, torch.full_like(u, 0x80 if signed else 0xFF), u)
    codes = torch.empty_like(values, dtype=torch.uint8)
    _flat(codes).copy_(u.reshape(-1)[: values.numel()])
    scales = torch.where(flagged, top | _SIGN, top).view(torch.float32)
    return codes, scales[:, 0]


def decoded(codes: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """The float32 values of codes, with their layout.

    Args:
        codes: uint8, dense.
        scales: Those of the state, float32 (blocks,).
        signed: As for `encoded`.
    """
    blocks = _blocks(_flat(codes)).to(torch.int32)
    stored = scales.contiguous().view(torch.int32)[:, None]
    top, flagged = stored & _MAGNITUDE, stored < 0
    u = blocks & 0x7F if signed else blocks
    part = _ONE + ((7 if signed else 8) << 23) - (u + 1).float().view(torch.int32)
    bits = (top - (part << 2 if signed else part * 11 >> 1)).clamp(min=1)
    bits = torch.where(u == 0, torch.zeros_like(bits), bits)
    if signed:
        bits = torch.where(blocks >= 0x80, bits | _SIGN, bits)
    value = bits.view(torch.float32)
    marker, special = (0x80, float("nan")) if signed else (0xFF, float("inf"))
    value = torch.where(flagged & (blocks == marker), torch.full_like(value, special), value)
    result = torch.empty_like(codes, dtype=torch.float32)
    _flat(result).copy_(value.reshape(-1)[: codes.numel()])
    return result


def make_coded(param: Tensor, own: dict[str, Any], names: Sequence[str]) -> None:
    """Adds the codes and scales of states that are zero."""
    for name in names:
        own[codes_name(name)] = torch.zeros_like(param, dtype=torch.uint8, memory_format=torch.preserve_format)
    blocks = (param.numel() + BLOCK - 1) // BLOCK
    own[SCALES] = torch.zeros(blocks, len(names), dtype=torch.float32, device=param.device)


def fit_format(
    group: dict[str, Any],
    param: Tensor,
    own: dict[str, Any],
    names: Sequence[str],
    wanted: Sequence[str],
    where: str,
) -> None:
    """Turns a parameter's states into the format that its group asks for, and codes into its layout.

    Args:
        group: The param group.
        param: The parameter.
        own: Its states.
        names: The names of all states that the rule can have.
        wanted: Those that the group has.
        where: The parameter, as errors name it.

    Raises:
        ValueError, TypeError: Codes, scales or states do not fit the parameter; nothing has been changed.
    """
    coded, there = is_coded(group), names_of_codes(own, names)
    if not there and not coded:
        return
    floats = [name for name in wanted if name in own]
    like = param.detach() if is_dense(param) else param.detach().contiguous()
    stored = [own[codes_name(name)] for name in there]
    fits = all(not isinstance(value, Tensor) or same_layout(value, like) for value in stored)
    if coded and not floats and there == list(wanted) and fits:
        return  # the core looks at the rest
    check_codes(param, own, names, where)
    values = {**all_decoded(own, names), **{name: own[name] for name in floats}}
    made: dict[str, Tensor] = {}
    if coded:
        columns = []
        for name in wanted:
            if name in values:
                value = torch.empty_like(like, dtype=torch.float32).copy_(values.pop(name))
                made[codes_name(name)], column = encoded(value, signed=name == names[0])
                columns.append(column)
        if columns:
            made[SCALES] = torch.stack(columns, 1)
    for name, value in values.items():
        made[name] = torch.empty_like(like, dtype=state_dtype_of(param, group)).copy_(value)
    for key in (SCALES, *map(codes_name, names), *floats):
        own.pop(key, None)
    own.update(made)


def names_of_codes(own: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Those of the states that are codes."""
    return [name for name in names if codes_name(name) in own]


def all_decoded(own: dict[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
    """The values of all states that are codes, by name."""
    there = names_of_codes(own, names)
    return {
        name: decoded(own[codes_name(name)], own[SCALES][:, k], signed=name == names[0])
        for k, name in enumerate(there)
    }


def check_codes(param: Tensor, own: dict[str, Any], names: Sequence[str], where: str) -> None:
    """Raises ValueError or TypeError unless codes, scales and states fit their parameter.

    Args:
        param: The parameter.
        own: Its states.
        names: The names of all states that the rule can have.
        where: The parameter, as errors name it.
    """
    there = names_of_codes(own, names)
    twice = [name for name in there if name in own]
    if twice:
        raise ValueError(f"{where} must have {twice[0]} either as codes or as floating point, got both")
    blocks = (param.numel() + BLOCK - 1) // BLOCK
    wanted = {codes_name(name): (torch.uint8, tuple(param.shape)) for name in there}
    if there:
        wanted[SCALES] = torch.float32, (blocks, len(there))
    for name, (dtype, shape) in wanted.items():
        value = own.get(name)
        if not isinstance(value, Tensor):
            raise TypeError(f"{where} must have a state {name} that is a tensor, got {told(value)}")
        got = value.dtype, tuple(value.shape)
        if got != (dtype, shape) or value.device != param.device or not is_dense(value):
            raise ValueError(
                f"{where} must have a dense state {name} of {dtype} and shape {shape} on {param.device}, got "
                f"{got[0]} and shape {got[1]} on {value.device}, strides {tuple(value.stride())}"
            )
    for name in names:
        value = own.get(name)
        if isinstance(value, Tensor) and value.shape != param.shape:
            raise ValueError(
                f"{where} must have a state {name} of shape {tuple(param.shape)}, got {tuple(value.shape)}"
            )


def _flat(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _blocks(flat: Tensor) -> Tensor:
    missing = -flat.numel() % BLOCK
    return torch.nn.functional.pad(flat, (0, missing)).view(-1, BLOCK)

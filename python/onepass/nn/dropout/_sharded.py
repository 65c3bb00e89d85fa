"""Dropout of DTensors: each rank drops in its part what a dropout of the whole tensor would drop there.

The draws are numbered through the whole tensor (csrc/core/draw_places.h), so the mask is the same on any mesh
and for any placements. One broadcast of 8 bytes for each dimension of the mesh gives all ranks one seed.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from onepass._memory import check_large
from onepass._placements import DIMENSIONS, collapsed
from onepass.nn._call.dispatch import is_transformed
from onepass.nn._call.shards import is_sharded, local_part, seed_of_mesh
from onepass.nn.dropout import _ops
from onepass.nn.dropout._derivative import apply
from onepass.nn.dropout._kernels import Options, options_of, run

__all__ = ["sharded"]


def sharded(
    function: str,
    input: Any,
    p: float,
    inplace: bool,
    scaling: str,
    residual: Any,
    planes: bool,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
    shared: bool,
) -> Tensor:
    """Does what `dropout` does in training, p > 0, on a DTensor; the result is one with the input's placements.

    A residual is redistributed to the input's placements. A partial input becomes replicated.
    """
    if inplace:
        raise RuntimeError(f"{function}: inplace must be False with a DTensor, got True")
    compiling = torch.compiler.is_compiling()
    if not compiling and is_transformed():
        raise RuntimeError(f"{function}: input must not be a DTensor under torch.func, got one")
    input, mesh = _whole(input), input.device_mesh
    if residual is not None:
        if not is_sharded(residual) or residual.device_mesh != mesh:
            raise TypeError(
                f"{function}: residual must be a DTensor on input's mesh, got {type(residual).__name__}"
            )
        residual = residual.redistribute(mesh, input.placements)
    planes = planes and math.prod(input.shape[2:]) > 1
    part = _part(function, input, planes, shared)
    local = input.to_local()
    other = None if residual is None else residual.to_local()
    drawn = seed_of_mesh(function, local, mesh, generator, seed)
    options = (Options if compiling else options_of)(float(p), scaling, False, planes, shared, part)
    if local.numel() == 0:
        output = local.clone() if other is None else local + other
    elif compiling:
        output = _ops.dropout(local, other, drawn, options)
    else:
        check_large(function, input=local, residual=other)
        wanted = local.requires_grad or (other is not None and other.requires_grad)
        if torch.is_grad_enabled() and wanted:
            output = apply(local, other, drawn, options, False)
        else:
            output = run(local, other, drawn, options)[0]
    output = output.contiguous()
    whole = {"shape": input.shape, "stride": _strides(input.shape)}
    return cast(Tensor, type(input).from_local(output, mesh, input.placements, run_check=False, **whole))


def _whole(input: Any) -> Any:
    """Returns the input with partial sums added up."""
    placements = input.placements
    if not any(one.is_partial() for one in placements):
        return input
    from torch.distributed.tensor import Replicate

    return input.redistribute(placements=[Replicate() if one.is_partial() else one for one in placements])


def _part(function: str, input: Any, planes: bool, shared: bool) -> tuple[int, ...] | None:
    """Returns where this rank's draws are among those of the whole: the first one, sizes, strides; None: all."""
    local, offsets = local_part(function, "input", input)
    dims = range(1 if shared else 0, 2 if planes else len(local))
    sizes = [local[d] for d in dims]
    strides = [_strides(input.shape[: 2 if planes else None])[d] for d in dims]
    if sizes == [input.shape[d] for d in dims] or 0 in local:
        return None
    first = sum(offsets[d] * stride for d, stride in zip(dims, strides, strict=True))
    sizes, strides = collapsed(sizes, strides)
    if len(sizes) > DIMENSIONS:
        raise ValueError(
            f"{function}: input must be sharded in at most {DIMENSIONS - 1} dimensions, got the placements "
            f"{input.placements}"
        )
    return (first, *sizes, *strides)


def _strides(shape: Any) -> tuple[int, ...]:
    return tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))

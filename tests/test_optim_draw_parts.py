"""Stochastic rounding of a part of a tensor: the bits are the slice of those that the whole tensor gets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import onepass.optim
from distributed_ranks import run_ranks
from precision_setup import each_half, each_rule, rounded

# A shape, where the part begins in each dimension, and its shape.
PARTS = {
    "whole": ((1000,), (0,), (1000,)),
    "begin": ((1000,), (0,), (300,)),
    "group": ((1000,), (512,), (488,)),
    "even": ((1000,), (130,), (700,)),
    "odd": ((2000,), (333,), (1400,)),
    "rows": ((40, 129), (7, 0), (21, 129)),
    "columns": ((40, 600), (0, 256), (40, 256)),
    "odd-columns": ((40, 601), (0, 33), (40, 301)),
    "one-column": ((700, 3), (0, 1), (700, 1)),
    "block": ((31, 77), (5, 11), (20, 51)),
    "inner": ((5, 9, 100), (0, 3, 0), (5, 4, 100)),
    "twice": ((5, 9, 100), (1, 3, 21), (3, 4, 40)),
    "six": ((3, 2, 3, 2, 3, 40), (1, 0, 1, 0, 1, 3), (2, 2, 2, 1, 2, 9)),
}


def cut(value: Tensor, begin: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    for dim, (first, size) in enumerate(zip(begin, shape, strict=True)):
        value = value.narrow(dim, first, size)
    return value.clone(memory_format=torch.contiguous_format)


def draw_part(whole: tuple[int, ...], begin: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """What a group's option says of a part: the first element, then sizes and strides."""
    strides = [math.prod(whole[dim + 1 :]) for dim in range(len(whole))]
    first = sum(one * stride for one, stride in zip(begin, strides, strict=True))
    return (first,) if shape[1:] == whole[1:] else (first, *shape, *strides)


@each_rule
@each_half
@pytest.mark.parametrize("wide_states", [False, True], ids=["narrow", "wide"])
@pytest.mark.parametrize("name", list(PARTS))
def test_a_part_gets_the_slice_of_the_bits(backend, rule, dtype, wide_states, name):
    whole, begin, shape = PARTS[name]
    options = {"state_dtype": torch.float32} if wide_states else {}
    torch.manual_seed(0)
    values = [torch.randn(whole).to(dtype) for _ in range(4)]
    param = torch.nn.Parameter(values[0].to(backend.device))
    own = torch.nn.Parameter(cut(values[0], begin, shape).to(backend.device))
    optimizers = [rounded(rule, [one], rounding="stochastic", seed=9, **options) for one in (param, own)]
    optimizers[1].param_groups[0]["draw_part"] = draw_part(whole, begin, shape)
    for grad in values[1:]:
        param.grad, own.grad = grad.to(backend.device), cut(grad, begin, shape).to(backend.device)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(cut(param.detach(), begin, shape), own.detach())
    for state, value in optimizers[1].state[own].items():
        if state != "step":
            assert torch.equal(cut(optimizers[0].state[param][state], begin, shape), value), state


def is_slice(whole: Tensor, grad: Tensor, param: Any, part: Callable[[Tensor], Tensor]) -> bool:
    """Whether steps of a DTensor have the bits of the steps of the whole, at `part` of it."""
    param, whole = torch.nn.Parameter(param), torch.nn.Parameter(whole)
    whole.grad = grad
    spec = param.device_mesh, param.placements
    param.grad = DTensor.from_local(
        part(grad).clone(memory_format=torch.preserve_format),
        *spec,
        run_check=False,
        shape=param.shape,
        stride=param.stride(),
    )
    for one in (whole, param):
        optimizer = onepass.optim.AdamW([one], lr=0.01, rounding="stochastic", seed=3)
        optimizer.step()
        optimizer.step()
    return torch.equal(param.detach().to_local(), part(whole.detach()))


def on_mesh(shape: tuple[int, ...], mesh_shape: tuple[int, ...], dims: tuple[int | None, ...]) -> bool:
    """Whether a sharded step has the bits of the whole one."""
    mesh = init_device_mesh("cpu", mesh_shape)
    kinds = [Replicate() if dim is None else Shard(dim) for dim in dims]
    torch.manual_seed(0)
    value, grad = (torch.randn(shape).bfloat16() for _ in range(2))

    def part(whole: Tensor) -> Tensor:
        return distribute_tensor(whole.clone(), mesh, kinds, src_data_rank=None).to_local()

    return is_slice(value, grad, distribute_tensor(value.clone(), mesh, kinds, src_data_rank=None), part)


@pytest.mark.parametrize(
    ("mesh", "dims"),
    [
        ((4,), (0,)),
        ((4,), (1,)),
        ((4,), (2,)),
        ((4,), (None,)),
        ((2, 2), (0, 2)),
        ((2, 2), (0, 0)),
        ((2, 2), (None, 1)),
        ((2, 2), (1, 2)),
        ((2, 2), (2, 1)),
        ((2, 2), (2, 2)),
    ],
)
def test_draws_of_shards(mesh, dims):
    assert run_ranks(on_mesh, 4, 60, (7, 30, 11), mesh, dims) == [True] * 4


def in_fsdps_order(rows: int, dim: int) -> bool:
    """The second dimension of the mesh shares out first, as FSDP's parameters are under tensor parallelism."""
    mesh = init_device_mesh("cpu", (2, 2))
    torch.manual_seed(0)
    shape = (rows, 37) if dim == 0 else (37, rows)
    value, grad = (torch.randn(shape).bfloat16() for _ in range(2))
    place = mesh.get_coordinate()

    def part(whole: Tensor) -> Tensor:
        for at in (place[1], place[0]):
            whole = whole.chunk(2, dim)[at]
        return whole.contiguous()

    kinds = [_StridedShard(dim, split_factor=2), Shard(dim)]
    param = DTensor.from_local(part(value), mesh, kinds, run_check=False, shape=shape, stride=(shape[1], 1))
    return is_slice(value, grad, param, part)


@pytest.mark.parametrize(("rows", "dim"), [(24, 0), (23, 0), (24, 1)])
def test_draws_of_shards_in_fsdps_order(rows, dim):
    assert run_ranks(in_fsdps_order, 4, 60, rows, dim) == [True] * 4


def with_channels_last(dims: tuple[int, int]) -> bool:
    """The memory of the whole and of its shards is in another order than the dimensions."""
    mesh = init_device_mesh("cpu", (2, 2))
    torch.manual_seed(0)
    shape = (8, 6, 5, 4)
    value, grad = (torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last) for _ in range(2))
    place = mesh.get_coordinate()

    def part(whole: Tensor) -> Tensor:
        for at, dim in zip(place, dims, strict=True):
            whole = whole.chunk(2, dim)[at]
        return whole.contiguous(memory_format=torch.channels_last)

    kinds = [Shard(dim) for dim in dims]
    param = DTensor.from_local(part(value), mesh, kinds, run_check=False, shape=shape, stride=value.stride())
    return is_slice(value, grad, param, part)


@pytest.mark.parametrize("dims", [(0, 1), (1, 2), (0, 3)])
def test_draws_of_shards_of_channels_last(dims):
    assert run_ranks(with_channels_last, 4, 60, dims) == [True] * 4

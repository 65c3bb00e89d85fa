"""Stochastic rounding of a part of a tensor: the bits are the slice of those that the whole tensor gets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

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
}


def cut(value: Tensor, begin: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    for dim, (first, size) in enumerate(zip(begin, shape, strict=True)):
        value = value.narrow(dim, first, size)
    return value.clone(memory_format=torch.contiguous_format)


def draw_part(whole: tuple[int, ...], begin: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """What a group's option says of a part that is cut at one dimension besides the first."""
    strides = [math.prod(whole[dim + 1 :]) for dim in range(len(whole))]
    first = sum(one * stride for one, stride in zip(begin, strides, strict=True))
    inner = [dim for dim in range(1, len(whole)) if shape[dim] < whole[dim]]
    if not inner:
        return first, 0, 0
    return first, math.prod(shape[inner[0] :]), strides[inner[0] - 1]


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


def on_mesh(shape: tuple[int, ...], mesh_shape: tuple[int, ...], dims: tuple[int | None, ...]) -> bool:
    """Whether a sharded step has the bits of the whole one."""
    mesh = init_device_mesh("cpu", mesh_shape)
    kinds = [Replicate() if dim is None else Shard(dim) for dim in dims]
    torch.manual_seed(0)
    value, grad = (torch.randn(shape).bfloat16() for _ in range(2))
    whole = torch.nn.Parameter(value.clone())
    param = torch.nn.Parameter(distribute_tensor(value.clone(), mesh, kinds, src_data_rank=None))
    whole.grad, param.grad = grad, distribute_tensor(grad, mesh, kinds, src_data_rank=None)
    for one in (whole, param):
        optimizer = onepass.optim.AdamW([one], lr=0.01, rounding="stochastic", seed=3)
        optimizer.step()
        optimizer.step()
    wanted = distribute_tensor(whole.detach(), mesh, kinds, src_data_rank=None)
    return torch.equal(param.detach().to_local(), wanted.to_local())


@pytest.mark.parametrize(
    ("mesh", "dims", "same"),
    [
        ((4,), (0,), True),
        ((4,), (1,), True),
        ((4,), (2,), True),
        ((4,), (None,), True),
        ((2, 2), (0, 2), True),
        ((2, 2), (0, 0), True),
        ((2, 2), (None, 1), True),
        # Two inner dimensions: each shard draws by itself (docs/distributed.md).
        ((2, 2), (1, 2), False),
    ],
)
def test_draws_of_shards(mesh, dims, same):
    assert run_ranks(on_mesh, 4, 60, (7, 30, 11), mesh, dims) == [same] * 4

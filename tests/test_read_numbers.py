"""The core's reader of small tensors, and what the monitor does with tensors that it does not read."""

from __future__ import annotations

import pytest
import torch

from onepass._native import core
from onepass.monitor._packed import kept, kept_all

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", [*DTYPES, *WHOLE], ids=str)
def test_reads_as_tolist(dtype):
    edges = torch.tensor([0, 1, 3, 100]).to(dtype)
    if dtype.is_signed:
        edges = torch.cat([edges, -edges])
    tensors = [edges, edges[1], edges[2:2], edges.reshape(2, 1, -1)]
    found = core.read_numbers(tensors)
    assert found == [tensor.reshape(-1).tolist() for tensor in tensors]
    assert all(type(one) is (float if dtype.is_floating_point else int) for one in found[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reads_every_kind_of_number(dtype):
    limits = torch.finfo(dtype)
    values = [float("inf"), -float("inf"), -0.0, limits.max, limits.tiny, limits.smallest_normal / 2, limits.eps]
    tensor = torch.tensor([*values, float("nan")], dtype=dtype)
    (found,) = core.read_numbers([tensor])
    assert list(map(str, found)) == list(map(str, tensor.tolist()))


def test_reads_integers_exactly():
    limits = torch.iinfo(torch.int64)
    assert core.read_numbers([torch.tensor([limits.max, limits.min])]) == [[limits.max, limits.min]]


def test_reads_what_wants_a_gradient():
    assert core.read_numbers([torch.ones(2, requires_grad=True).sum()]) == [[2.0]]


@pytest.mark.parametrize(
    ("tensor", "error", "match"),
    [
        (torch.ones(4)[::2], ValueError, r"read_numbers: tensors\[1\] must be contiguous, got strides \(2,\)"),
        (torch.ones(2, 2).T, ValueError, r"read_numbers: tensors\[1\] must be contiguous, got strides \(1, 2\)"),
        (torch.ones(1, dtype=torch.complex64), TypeError, r"tensors\[1\] must be real, got torch.complex64"),
        (torch.ones(2, device="meta"), (TypeError, ValueError), r"read_numbers: tensors\[1\] must"),
        (1.0, TypeError, r"read_numbers: tensors\[1\] must be a torch.Tensor or a numpy.ndarray, got float"),
    ],
    ids=["gaps", "transposed", "complex", "meta", "number"],
)
def test_refuses(tensor, error, match):
    with pytest.raises(error, match=match):
        core.read_numbers([torch.ones(1), tensor])


def test_the_monitor_reads_by_torch_what_the_core_refuses():
    class Logged(torch.Tensor):
        pass

    gaps = torch.arange(6.0).reshape(2, 3).T
    assert kept(gaps) == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    assert kept_all([torch.ones(2), gaps[0], torch.ones(1).as_subclass(Logged)]) == [[1.0, 1.0], [0.0, 3.0], [1.0]]
    grown = torch.ones(1, requires_grad=True)
    assert kept_all([grown, gaps[1]]) == [[1.0], [1.0, 4.0]]


def test_what_is_kept_does_not_change_with_the_tensor():
    tensor = torch.ones(2)
    found = kept(tensor)
    tensor.zero_()
    assert found == [1.0, 1.0]

"""Dropout of DTensors on real ranks: each rank has its slice of the mask that the whole tensor would have."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import onepass.nn
import onepass.nn.functional as F
from distributed_ranks import run_ranks

# (shape, mesh, placements): even, uneven and empty shards, several dimensions of a tensor or of a mesh.
LAYOUTS = [
    ((6, 4, 5), (2,), (Shard(0),)),
    ((7, 4, 5), (2,), (Shard(0),)),
    ((6, 37, 5), (2,), (Shard(1),)),
    ((6, 4, 50), (2,), (Shard(2),)),
    ((1, 4, 5), (2,), (Shard(0),)),
    ((6, 4, 5), (2,), (Replicate(),)),
    ((300,), (2,), (Shard(0),)),
]
LAYOUTS_OF_FOUR = [
    ((6, 40, 5), (2, 2), (Shard(0), Shard(1))),
    ((6, 40, 5), (2, 2), (Shard(0), Shard(2))),
    ((6, 7, 50), (2, 2), (Shard(1), Shard(2))),
    ((9, 40), (2, 2), (Shard(0), Shard(0))),
    ((6, 40, 5), (2, 2), (Replicate(), Shard(1))),
    ((3, 40, 5), (4,), (Shard(0),)),
    ((6, 40, 50), (4,), (Shard(-1),)),
]
FUNCTIONS = {
    "dropout": (F.dropout, {}),
    "half": (F.dropout, {"p": 0.5}),
    "all": (F.dropout, {"p": 1.0}),
    "test-time": (F.dropout, {"scaling": "test_time"}),
    "shared": (F.dropout, {"shared": True}),
    "alpha": (F.alpha_dropout, {"training": True}),
    "1d": (F.dropout1d, {}),
    "feature-alpha": (F.feature_alpha_dropout, {"training": True}),
}


def whole(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same_slices(layouts, how: str) -> int:
    """Compares output and gradient with those of the whole tensor, to the bit; returns how many there were."""
    function, options = FUNCTIONS[how]
    options = {"p": 0.3, **options}
    compared = 0
    for shape, sizes, placements in layouts:
        if function in (F.dropout1d, F.feature_alpha_dropout) and len(shape) != 3:
            continue
        mesh = init_device_mesh("cpu", sizes)
        x, dy = whole(shape, 1).requires_grad_(), whole(shape, 2)
        y = function(x, seed=9, **options)
        y.backward(dy)
        parts = distribute_tensor(x.detach(), mesh, placements).requires_grad_()
        found = function(parts, seed=9, **options)
        assert isinstance(found, DTensor)
        assert found.placements == parts.placements
        assert found.shape == x.shape
        found.backward(distribute_tensor(dy, mesh, placements))
        assert torch.equal(found.full_tensor(), y), (shape, placements)
        assert torch.equal(parts.grad.full_tensor(), x.grad), (shape, placements)
        compared += 1
    return compared


@pytest.mark.parametrize("how", FUNCTIONS)
def test_a_shard_has_its_slice_of_the_mask(how):
    assert all(run_ranks(same_slices, 2, 60, LAYOUTS, how))
    assert all(run_ranks(same_slices, 4, 60, LAYOUTS_OF_FOUR, how))


def with_residual() -> None:
    mesh = init_device_mesh("cpu", (2,))
    x, r = whole((6, 40), 1), whole((6, 40), 2)
    y = F.dropout(x, 0.3, residual=r, seed=4)
    parts = [distribute_tensor(one, mesh, [where]) for one, where in ((x, Shard(1)), (r, Shard(0)))]
    found = F.dropout(parts[0], 0.3, residual=parts[1], seed=4)
    assert torch.equal(found.full_tensor(), y)
    # Sums that are not added up yet: 2 x on both ranks together.
    partial = DTensor.from_local(x, mesh, [Partial()])
    assert torch.equal(F.dropout(partial, 0.3, seed=4).full_tensor(), F.dropout(2 * x, 0.3, seed=4))


def test_residual_and_partial_sums():
    run_ranks(with_residual, 2, 30)


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Without a seed the ranks agree on that of the first one, and later draws differ."""
    torch.manual_seed(dist.get_rank())
    mesh = init_device_mesh("cpu", (2, 2))
    x = distribute_tensor(torch.ones(64, 6), mesh, [Replicate(), Shard(0)])
    module = onepass.nn.Dropout(0.5)
    first, second = module(x).full_tensor(), module(x).full_tensor()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    again = F.dropout(torch.ones(64, 6), 0.5)
    torch.set_rng_state(state)
    return first, second, again


def test_ranks_agree_on_a_seed():
    found = run_ranks(drawn, 4, 30)
    first, second, again = found[0]
    assert not torch.equal(first, second)
    # The first rank's seed decides: it is what one process with that seed draws.
    assert torch.equal(first, again)
    for other in found[1:]:
        assert torch.equal(other[0], first)
        assert torch.equal(other[1], second)


def compiled() -> None:
    mesh = init_device_mesh("cpu", (2,))
    x = distribute_tensor(whole((6, 40), 1), mesh, [Shard(1)]).requires_grad_()
    call = torch.compile(lambda x: F.dropout(x, 0.3, seed=4) * 2, backend="aot_eager")
    y = call(x)
    y.backward(torch.ones_like(y))
    grad, x.grad = x.grad.full_tensor(), None
    expected = F.dropout(x, 0.3, seed=4) * 2
    expected.backward(torch.ones_like(expected))
    assert torch.equal(y.full_tensor(), expected.full_tensor())
    assert torch.equal(grad, x.grad.full_tensor())


def test_compiled():
    run_ranks(compiled, 2, 60)


def plain(same: bool) -> Tensor:
    torch.manual_seed(dist.get_rank())
    return onepass.nn.Dropout(0.5, same_across_ranks=same)(torch.ones(100))


def test_plain_tensors():
    """Ranks with other seeds draw other masks, unless the same is asked for."""
    first, second = run_ranks(plain, 2, 30, False)
    assert not torch.equal(first, second)
    first, second = run_ranks(plain, 2, 30, True)
    assert torch.equal(first, second)
    assert 0 < first.count_nonzero() < 100


def refused() -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    x = distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)])
    messages = []
    for call in (
        lambda: F.dropout(x, 0.5, inplace=True),
        lambda: F.dropout(x, 0.5, residual=torch.ones(4, 4)),
    ):
        try:
            call()
            messages.append("nothing")
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
    assert F.dropout(x, 0.5, training=False) is x
    return messages


def test_refused():
    inplace, residual = run_ranks(refused, 2, 30)[0]
    assert inplace == "RuntimeError: dropout: inplace must be False with a DTensor, got True"
    assert residual == "TypeError: dropout: residual must be a DTensor on input's mesh, got Tensor"

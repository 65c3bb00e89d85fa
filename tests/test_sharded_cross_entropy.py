"""Cross-entropy of logits whose classes are sharded over real ranks: equal to the loss of the gathered logits."""

from __future__ import annotations

import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import onepass.nn
from cross_entropy_setup import DTYPES, SHAPE_IDS, SHAPES, Inputs, Options, expected
from distributed_ranks import RanksFailed, run_ranks
from onepass.nn.functional import cross_entropy
from tolerance import CONFIDENT, assert_parity, assert_scalar

OPTIONS = [
    Options(),
    Options(smoothing=0.1),
    Options(smoothing=0.1, weighted=True, ignored=True),
    Options(weighted=True, reduction="sum", z_loss=0.01),
    Options(smoothing=0.3, ignored=True, reduction="none", z_loss=0.02),
]


def class_dim(x: Tensor) -> int:
    return min(1, x.dim() - 1)


def losses(cases: list[tuple[Inputs, Options]]) -> list[tuple[Tensor, Tensor]]:
    """Returns the loss and the gradient of all logits, both as this rank has them."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found = []
    for given, options in cases:
        x = distribute_tensor(given.x, mesh, [Shard(class_dim(given.x))]).requires_grad_()
        loss = cross_entropy(
            x,
            given.target,
            given.weight,
            reduction=options.reduction,
            label_smoothing=options.smoothing,
            z_loss=options.z_loss,
        )
        assert isinstance(loss, DTensor)
        loss.backward(distribute_tensor(given.grad, mesh, [Replicate()]))
        assert x.grad.placements == x.placements
        found.append((loss.to_local().detach(), x.grad.full_tensor()))
    return found


# Four ranks leave some without a class.
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_gathered_loss(dtype, ranks):
    """The error against float64 is at most twice that of torch on all logits, plus one ulp."""
    names, cases, torchs, exact = [], [], [], []
    for shape, name in zip(SHAPES, SHAPE_IDS, strict=True):
        for options in OPTIONS:
            given, theirs, right = expected(shape, dtype, options)
            names.append(f"{name} {options}")
            cases.append((given, options))
            torchs.append(theirs)
            exact.append(right)
    ranks_found = run_ranks(losses, ranks, 60, cases)
    for number, what in enumerate(names):
        loss, dx = ranks_found[0][number]
        for other in ranks_found[1:]:
            assert torch.equal(loss, other[number][0]), f"{what}: another loss on another rank"
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        if loss.dim() == 0:
            assert_scalar(loss, exact[number][0], f"{what} loss")
        else:
            assert_parity(loss, torchs[number][0].to(loss.dtype), exact[number][0], f"{what} loss")
        assert_parity(dx, torchs[number][1], exact[number][1], f"{what} gradient")


def confident() -> tuple[float, float]:
    """A row whose label is certain: neither log(1 + rest) nor p - 1 cancels."""
    mesh = init_device_mesh("cpu", (2,))
    x = distribute_tensor(torch.tensor([[0.0, 40.0, 0.0, 1.0]]), mesh, [Shard(1)]).requires_grad_()
    loss = cross_entropy(x, torch.tensor([1]))
    loss.backward()
    return loss.item(), x.grad.full_tensor()[0, 1].item()


def test_confident_rows():
    whole = torch.tensor([[0.0, 40.0, 0.0, 1.0]], dtype=torch.float64)
    rest = (whole - 40).exp().sum() - 1
    for loss, dx in run_ranks(confident, 2, 30):
        assert loss == pytest.approx(rest.item(), rel=CONFIDENT["rtol"])
        assert dx == pytest.approx(-rest.item(), rel=CONFIDENT["rtol"])


def on_two_dimensions() -> None:
    """A mesh of two dimensions, with a DTensor as target and the module."""
    mesh = init_device_mesh("cpu", (2, 2))
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(5, 6, generator=generator), torch.tensor([0, 5, 2, 2, 1])
    parts = distribute_tensor(x, mesh, [Replicate(), Shard(-1)]).requires_grad_()
    labels = distribute_tensor(target, mesh, [Replicate(), Replicate()])
    onepass.nn.CrossEntropyLoss(label_smoothing=0.1)(parts, labels).backward()
    x.requires_grad_()
    torch.nn.functional.cross_entropy(x, target, label_smoothing=0.1).backward()
    torch.testing.assert_close(parts.grad.full_tensor(), x.grad)


def test_a_mesh_of_two_dimensions():
    run_ranks(on_two_dimensions, 4, 30)


def refused() -> list[str]:
    mesh = init_device_mesh("cpu", (2,))
    x, target = torch.randn(4, 6), torch.tensor([0, 1, 2, 3])
    parts, rows = (distribute_tensor(x, mesh, [Shard(dim)]).requires_grad_() for dim in (1, 0))
    messages = []
    for call in (
        lambda: cross_entropy(rows, target),
        lambda: cross_entropy(parts, distribute_tensor(target, mesh, [Shard(0)])),
        lambda: cross_entropy(parts, x.softmax(1)),
        lambda: cross_entropy(parts, target, target2=target, lam=0.5),
        lambda: cross_entropy(parts, target, return_stats=True),
        lambda: cross_entropy(parts, target, inplace_backward=True),
        lambda: cross_entropy(parts, target + 3),
        lambda: torch.autograd.grad(cross_entropy(parts, target), parts, create_graph=True),
    ):
        try:
            call()
            messages.append("nothing")
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages


REFUSED = (
    "ValueError: cross_entropy: input must be sharded over its classes, in one dimension of the mesh, and",
    "ValueError: cross_entropy: target must be replicated with logits that are sharded over their classes",
    "ValueError: cross_entropy: target of probabilities must not be given with logits that are sharded",
    "ValueError: cross_entropy: target2 must not be given with logits that are sharded",
    "ValueError: cross_entropy: return_stats must not be given with logits that are sharded",
    "ValueError: cross_entropy: inplace_backward must not be given with logits that are sharded",
    "IndexError: cross_entropy: target must be 0 to 5 or ignore_index, got 6 in row 3",
    "RuntimeError: cross_entropy: create_graph and is_grads_batched must be False with logits that are sharded",
)


def test_refused():
    for found in run_ranks(refused, 2, 30):
        for message, expected_ in zip(found, REFUSED, strict=True):
            assert message.startswith(expected_)


def killed() -> None:
    mesh = init_device_mesh("cpu", (2,))
    x = distribute_tensor(torch.randn(4, 6), mesh, [Shard(1)])
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    cross_entropy(x, torch.tensor([0, 1, 2, 3]))


def test_a_killed_rank():
    with pytest.raises(RanksFailed) as caught:
        run_ranks(killed, 2, 30, patience=10)
    assert [one.kind for one in caught.value.outcomes] == ["raised", "died"]
    assert caught.value.outcomes[0].seconds < 10

"""Smoke: batch norm, dropout and the loss next to torch's, and a model that is converted, trained and reverted."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import onepass.nn
from onepass.nn.functional import cross_entropy, dropout

# One layer forward and backward in float64 by two programs: some dozens of roundings of 1e-16 each.
FLOAT64 = {"rtol": 1e-12, "atol": 1e-12}
# Three steps of a small network in float32 by two programs: about 1e-7 a step.
TRAINED = {"rtol": 1e-4, "atol": 1e-5}


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return torch.autograd.grad(y, inputs, torch.randn(y.shape, generator=generator, dtype=y.dtype))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_batch_norm_is_torchs(training, layout):
    ours, theirs = onepass.nn.BatchNorm2d(8).double(), nn.BatchNorm2d(8).double()
    x = torch.randn(4, 8, 6, 7, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    results = []
    for module in (ours, theirs):
        module.train(training)
        y = module(x)
        results.append((y, *gradients(y, x, module.weight, module.bias), *module.buffers()))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, **FLOAT64)


def test_batch_norm_with_residual_and_relu_is_torchs():
    ours, theirs = (kind(8).double() for kind in (onepass.nn.BatchNorm2d, nn.BatchNorm2d))
    ours.activation = "relu"
    x, shortcut = (torch.randn(4, 8, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mine = ours(x, residual=shortcut)
    other = torch.relu(theirs(x) + shortcut)
    for one, two in zip(
        (mine, *gradients(mine, x, shortcut)), (other, *gradients(other, x, shortcut)), strict=True
    ):
        torch.testing.assert_close(one, two, **FLOAT64)


def test_dropout_keeps_scales_and_repeats():
    x = torch.ones(100_000, requires_grad=True)
    y = onepass.nn.Dropout(0.25)(x)
    kept = y != 0
    # The share of 100,000 kept elements has a standard deviation of 0.0014.
    assert abs(kept.float().mean().item() - 0.75) < 0.01
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / 0.75))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, y)
    assert torch.equal(dropout(x, 0.1, seed=7), dropout(x, 0.1, seed=7))
    assert not torch.equal(dropout(x, 0.1, seed=7), dropout(x, 0.1, seed=8))


@pytest.mark.parametrize("shape", [(16, 10), (4, 10, 6)], ids=["rows", "positions"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_torchs(reduction, shape):
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.randint(10, (shape[0], *shape[2:]))
    target.view(-1)[0] = -100
    options = {"label_smoothing": 0.1, "reduction": reduction, "weight": torch.rand(10, dtype=torch.float64)}
    mine = cross_entropy(logits, target, **options)
    other = nn.functional.cross_entropy(logits, target, **options)
    torch.testing.assert_close(mine, other, **FLOAT64)
    torch.testing.assert_close(gradients(mine, logits), gradients(other, logits), **FLOAT64)


def test_a_label_out_of_range_is_refused():
    with pytest.raises((IndexError, ValueError, RuntimeError), match="cross_entropy"):
        cross_entropy(torch.randn(4, 3), torch.tensor([0, 1, 2, 3]))


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))


def train(model: nn.Module, loss_of: nn.Module) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        x = torch.randn(16, 3, 8, 8, generator=generator)
        target = torch.randint(5, (16,), generator=generator)
        optimizer.zero_grad()
        loss_of(model(x), target).backward()
        optimizer.step()
    return model.eval()


def test_a_converted_model_trains_and_comes_back():
    theirs = train(network(), nn.CrossEntropyLoss())
    model = network()
    onepass.nn.convert(model, fuse_relu=True)
    ours = pickle.loads(pickle.dumps(train(model, onepass.nn.CrossEntropyLoss())))
    x = torch.randn(8, 3, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x), **TRAINED)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    back = copy.deepcopy(ours)
    onepass.nn.revert(back)
    assert type(back[1]) is nn.BatchNorm2d
    torch.testing.assert_close(back(x), theirs(x), **TRAINED)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_autocast_and_half_precision():
    """A norm of half precision with float32 parameters, and the loss of bfloat16 logits."""
    x = torch.randn(8, 4, 6, 6, dtype=torch.bfloat16)
    y = onepass.nn.BatchNorm2d(4)(x)
    assert y.dtype == torch.bfloat16
    with torch.autocast("cpu"):
        logits = nn.Linear(6, 5)(torch.randn(7, 6))
        loss = cross_entropy(logits, torch.randint(5, (7,)))
    assert logits.dtype == torch.bfloat16
    assert loss.isfinite()

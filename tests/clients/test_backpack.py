"""BackPACK: its extensions know layers by their class; ours are extended, or refused as loudly as unknown ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import onepass
from clients.programs import client, data, model
from tolerance import SAMPLE_GRADIENTS, SAMPLE_STEPS

backpack = client("backpack")
extensions = client("backpack.extensions")

EXTENSIONS = {
    "grad_batch": "BatchGrad",
    "variance": "Variance",
    "batch_l2": "BatchL2Grad",
    "sum_grad_squared": "SumGradSquared",
    "diag_ggn_exact": "DiagGGNExact",
    "diag_h": "DiagHessian",
}


def backward(net, loss, extension):
    net, loss = backpack.extend(net.eval()), backpack.extend(loss)
    inputs, labels = data()
    with backpack.backpack(getattr(extensions, EXTENSIONS[extension])()):
        loss(net(inputs[:8]), labels[:8]).backward()


def run(net, loss, extension):
    backward(net, loss, extension)
    return [getattr(p, extension) for p in net.parameters()]


def with_layers(package):
    torch.manual_seed(0)
    middle = [package.BatchNorm1d(16), nn.Tanh(), package.Dropout(0.5)]
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.Linear(16, 3))


@pytest.mark.parametrize("extension", list(EXTENSIONS))
def test_our_loss(extension):
    """Results equal those with torch's loss, or the error of an unknown loss is raised; nothing is missing."""
    expected = run(model(), nn.CrossEntropyLoss(), extension)
    try:
        found = run(model(), onepass.nn.CrossEntropyLoss(), extension)
    except NotImplementedError as error:
        assert "CrossEntropyLoss" in str(error)  # noqa: PT017  # either is right
    else:
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, **SAMPLE_GRADIENTS)


def test_our_layers():
    """BackPACK looks the exact class up: with ours, second order raises, first order warns and leaves them out."""
    run(with_layers(nn), nn.CrossEntropyLoss(), "diag_ggn_exact")
    with pytest.raises(NotImplementedError, match=r"Dropout|BatchNorm1d"):
        run(with_layers(onepass.nn), nn.CrossEntropyLoss(), "diag_ggn_exact")
    net = with_layers(onepass.nn)
    with pytest.warns(UserWarning, match="BatchNorm1d"):
        backward(net, nn.CrossEntropyLoss(), "grad_batch")
    expected = run(with_layers(nn), nn.CrossEntropyLoss(), "grad_batch")
    found = [getattr(p, "grad_batch", None) for p in net.parameters()]
    assert [i for i, one in enumerate(found) if one is None] == [2, 3]
    for ours, theirs in zip(found, expected, strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs, **SAMPLE_GRADIENTS)


@pytest.mark.parametrize("extension", ["grad_batch", "diag_ggn_exact"])
def test_reverted_layers(extension):
    """After convert and revert its numbers are torch's, bit for bit."""
    expected = run(with_layers(nn), nn.CrossEntropyLoss(), extension)
    net = with_layers(nn)
    onepass.nn.convert(net).revert()
    for ours, theirs in zip(run(net, nn.CrossEntropyLoss(), extension), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_our_optimizer_after_it(watch):
    """Our steps work next to its extensions, which put attributes on parameters."""
    net, loss = backpack.extend(model()), backpack.extend(nn.CrossEntropyLoss())
    plain = model()
    inputs, labels = data()
    ours, theirs = onepass.optim.AdamW(net.parameters()), torch.optim.AdamW(plain.parameters())
    for _ in range(5):
        ours.zero_grad()
        theirs.zero_grad()
        with backpack.backpack(extensions.BatchGrad()):
            loss(net(inputs), labels).backward()
        nn.functional.cross_entropy(plain(inputs), labels).backward()
        for p, q in zip(net.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad_batch.sum(0), q.grad, **SAMPLE_GRADIENTS)
        ours.step()
        theirs.step()
    watch.assert_steps("onepass", 5)
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, **SAMPLE_STEPS)

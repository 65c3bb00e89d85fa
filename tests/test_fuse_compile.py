"""torch.compile(model, backend="onepass"): what it fuses in dynamo's graphs, and that results are as before."""

from __future__ import annotations

import copy
import importlib
import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch.nn import functional as F

import onepass
from fuse_models import Mlp, Residual, assert_parity_by_norm, results
from onepass.nn.fusion import compiled

# Inductor's own imports and TorchScript warn.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*record_function.*"),
]
ROOT = Path(__file__).parents[1]
LEFT = "left to Inductor: "


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def compiled_by(model, reports, worth="", **options):
    """Compiles with the rewriting, and runs what Inductor would get, split by autograd."""

    def backend(module, example_inputs):
        reports.append(compiled.rewrite(module, None if worth is None else lambda found: worth))
        return aot_eager(module, example_inputs)

    return torch.compile(model, backend=backend, **options)


def test_it_is_registered():
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'\[project.entry-points.torch_dynamo_backends\]\nonepass = "([\w.]+):(\w+)"', text)
    assert getattr(importlib.import_module(found[1]), found[2]) is compiled.backend


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize(("make", "shape"), [(Residual, (4, 8, 6, 6)), (Mlp, (32, 16))])
def test_a_step_is_as_accurate_as_torchs(make, shape, convert):
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    exact = results(copy.deepcopy(model).double(), x.double())
    theirs = results(copy.deepcopy(model), x)
    ours, reports = copy.deepcopy(model), []
    if convert:
        onepass.nn.convert(ours)
    got = results(compiled_by(ours, reports), x)
    assert_parity_by_norm(len(list(model.parameters())), got, theirs, exact)
    # The residual's last sum adds what came in from outside.
    outside = LEFT + "what it reads was not made in this graph: it may share memory with the statistics"
    wanted = outside if make is Residual else "fused with add, ReLU"
    assert [outcome for _, outcome in reports[0]] == ["fused with ReLU", wanted]
    assert all(outcome.startswith("fused") for _, outcome in reports[1])


def test_by_inductor_with_gradients(caplog):
    """A dropout goes into the pass of the batch norm; the numbers of a step without it are as before."""
    torch.manual_seed(0)
    model, x = Mlp(p=0.5), torch.randn(32, 16, requires_grad=True)
    with caplog.at_level(logging.INFO, "onepass.compile"):
        y = torch.compile(model, backend=compiled.backend)(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    said = [record.getMessage() for record in caplog.records if record.name == "onepass.compile"]
    assert [text.partition(" ")[2] for text in said] == [
        "fused with ReLU, dropout",
        "fused with add, ReLU, dropout",
    ]
    assert model.norm.num_batches_tracked == 1
    assert 0.4 < float((y == 0).float().mean()) < 0.95
    assert torch.isfinite(grad).all()
    plain = copy.deepcopy(model).eval()
    torch.testing.assert_close(torch.compile(model.eval(), backend=compiled.backend)(x), plain(x))


def test_dynamic_batch_and_recompiles():
    """Three batch sizes make two graphs, as with any backend: one for a number, one for any."""
    model, reports = Mlp(), []
    plain = copy.deepcopy(model)
    fast = compiled_by(model, reports)
    for size in (32, 33, 35, 37):
        x = torch.randn(size, 16)
        torch.testing.assert_close(fast(x), plain(x))
    assert len(reports) == 2
    assert all("fused with add, ReLU" in str(report) for report in reports)


def test_what_is_left():
    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            y = x + 1
            z = self.a(y)
            z = z + F.relu_(y)
            z = F.silu(self.b(z))
            z = self.c(z)
            return F.relu(z), z

    model, reports = Left(), []
    plain, x = copy.deepcopy(model), torch.randn(4, 3, 5, 5)
    with torch.no_grad():  # torch's own backward refuses the changed input
        torch.testing.assert_close(compiled_by(model, reports)(x), plain(x))
    notes = [outcome.removeprefix(LEFT) for report in reports for _, outcome in report]
    assert "runs between it and" in notes[0]
    assert notes[1:] == ["silu stands behind it", "its result is used 2 times"]
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("convert", [False, True])
def test_what_is_worth_it(convert):
    """Inductor gets torch's batch norms where ours would be slower, also in a converted model."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.wide = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.lin, self.flat = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            y = F.relu(self.wide(self.conv(x)))
            return F.dropout(F.relu(self.flat(self.lin(y.mean((2, 3))))), 0.5, self.training)

    torch.manual_seed(0)
    model, x, reports = Both(), torch.randn(8, 3, 4, 4), []
    plain = copy.deepcopy(model)
    if convert:
        onepass.nn.convert(model)
    compiled_by(model, reports, worth=None)(x), plain(x)
    assert [outcome for _, outcome in reports[0]] == [
        f"{LEFT}Inductor is faster without a dropout",
        "fused with ReLU, dropout",
    ]
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_a_fused_model_compiles():
    """The compiler sees the forward as it was written."""
    torch.manual_seed(0)
    model, x, reports = Residual(), torch.randn(4, 8, 6, 6), []
    expected = copy.deepcopy(model)(x)
    onepass.nn.fuse(model)
    torch.testing.assert_close(compiled_by(model, reports, fullgraph=True)(x), expected)
    assert len(reports[0]) == 2

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
from torch.utils.checkpoint import checkpoint

import onepass
from fuse_models import Functional, Generator, Mlp, Residual, assert_parity_by_norm, results
from onepass.nn.fusion import compiled
from tolerance import assert_parity

# Inductor's own imports and TorchScript warn.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*record_function.*"),
]
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def fresh(monkeypatch, request):
    """Fuses whatever is right, whether it is worth it or not."""
    torch._dynamo.reset()
    if "worth" not in request.node.name:
        monkeypatch.setattr(compiled, "why_not_worth", lambda steps: "")


def compiled_by(model, reports, autograd=False, **options):
    """Compiles with the rewriting, and runs the graph as it is; or as Inductor would get it, split by autograd."""

    def backend(module, example_inputs):
        reports.append(compiled.rewrite(module))
        return aot_eager(module, example_inputs) if autograd else module.forward

    return torch.compile(model, backend=backend, **options)


def test_it_is_registered():
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'\[project.entry-points.torch_dynamo_backends\]\nonepass = "([\w.]+):(\w+)"', text)
    assert getattr(importlib.import_module(found[1]), found[2]) is compiled.backend


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize(
    ("make", "shape", "wanted"),
    [
        (Residual, (4, 8, 6, 6), {"bn1": "fused with relu", "bn2": "fused with add, relu, dropout"}),
        (Functional, (4, 8, 6, 6), {"norm": "fused with add, relu, dropout"}),
        (Generator, (4, 6), {"norm0": "fused with relu", "norm1": "fused with relu"}),
        (Mlp, (32, 16), {"enter.1": "fused with relu, dropout", "norm": "fused with add, relu, dropout"}),
    ],
)
def test_a_step_is_as_accurate_as_torchs(make, shape, wanted, convert):
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    exact = results(copy.deepcopy(model).double(), x.double())
    theirs = results(copy.deepcopy(model), x)
    ours, reports = copy.deepcopy(model), []
    if convert:
        onepass.nn.convert(ours)
    fast = compiled_by(ours, reports)
    for values in zip(results(fast, x), theirs, exact, strict=True):
        assert_parity(*values)
    names = {name.replace("_modules['", "").replace("']", ""): outcome for name, outcome in reports[0]}
    assert {name: outcome.replace(", dropout", "") for name, outcome in names.items()} == {
        name: outcome.replace(", dropout", "") for name, outcome in wanted.items()
    }


def test_by_inductor_with_gradients():
    torch.manual_seed(0)
    model, x = Residual(shortcut=True), torch.randn(4, 8, 6, 6)
    exact = results(copy.deepcopy(model).double(), x.double())
    theirs, ours = results(copy.deepcopy(model), x), results(torch.compile(model, backend=compiled.backend), x)
    assert_parity_by_norm(len(list(model.parameters())), ours, theirs, exact)


def test_dynamic_batch_and_recompiles():
    """Three batch sizes make two graphs, as with any backend: one for a number, one for any."""
    model, reports = Residual(), []
    plain = copy.deepcopy(model)
    fast = compiled_by(model, reports)
    for size in (2, 3, 5, 7):
        x = torch.randn(size, 8, 4, 4)
        torch.testing.assert_close(fast(x), plain(x))
    assert len(reports) == 2
    assert all("fused with add" in str(report) for report in reports)
    torch._dynamo.reset()
    reports.clear()
    fast = compiled_by(model, reports, dynamic=True)
    for size in (2, 3, 5):
        fast(torch.randn(size, 8, 4, 4))
    assert len(reports) == 1


def test_autocast():
    torch.manual_seed(0)
    model, x, reports = Residual(), torch.randn(4, 8, 6, 6), []
    plain = copy.deepcopy(model)
    exact = copy.deepcopy(model).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = compiled_by(model, reports)(x), plain(x)
    # The first sum is of two dtypes.
    left = "left to Inductor: the other summand has another shape or dtype"
    assert [outcome for _, outcome in reports[0]] == ["fused with relu", left]
    assert ours.dtype == theirs.dtype
    assert (ours.double() - exact).norm() <= 2 * (theirs.double() - exact).norm()


def test_activation_checkpointing():
    """In a compiled step the statistics move once, the masks are the same in both passes."""
    torch.manual_seed(0)
    model, x = Residual(dropout=0.5), torch.randn(4, 8, 6, 6, requires_grad=True)
    fast = compiled_by(lambda y: checkpoint(model, y, use_reentrant=False), [], autograd=True)
    y = fast(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert model.bn1.num_batches_tracked == 1
    shares = float((y == 0).float().mean())
    assert 0.4 < shares < 0.95
    assert torch.isfinite(grad).all()


def test_what_is_left(caplog):
    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            y = x + 1
            z = self.a(y)
            z = z + F.relu_(y)
            z = F.silu(self.b(z))
            return self.c(z) + self.c(z).mean()

    model, reports = Left(), []
    plain, x = copy.deepcopy(model), torch.randn(4, 3, 5, 5)
    with caplog.at_level(logging.INFO, "onepass.compile"):
        torch.testing.assert_close(compiled_by(model, reports)(x), plain(x))
    assert [outcome.partition(": ")[2] for _, outcome in reports[0]] == [
        "what runs before the sum may change the batch norm's input",
        "silu stands behind it",
        "what runs before the sum may change the batch norm's input",
        "mean stands behind it",
    ]
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))
    assert len(caplog.records) == 4


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
    model, x, reports, graphs = Both(), torch.randn(8, 3, 4, 4), [], []
    plain = copy.deepcopy(model)
    if convert:
        onepass.nn.convert(model)

    def backend(module, example_inputs):
        reports.append(compiled.rewrite(module))
        graphs.append(str(module.graph))
        return module.forward

    torch.compile(model, backend=backend)(x), plain(x)
    assert [outcome for _, outcome in reports[0]] == [
        "left to Inductor: Inductor is faster without a dropout",
        "fused with relu, dropout",
    ]
    assert graphs[0].count("functional.batch_norm") == graphs[0].count("fused_batch_norm](") == 1
    assert "ops.onepass" not in graphs[0]
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_a_fused_model_compiles():
    """The compiler sees the forward as it was written."""
    torch.manual_seed(0)
    model, x, reports = Residual(), torch.randn(4, 8, 6, 6), []
    expected = copy.deepcopy(model)(x)
    onepass.nn.fuse(model)
    torch.testing.assert_close(compiled_by(model, reports, fullgraph=True)(x), expected)
    assert [outcome for _, outcome in reports[0]] == ["fused with relu", "fused with add, relu"]


def test_export_of_a_fused_model():
    model, x = Residual().eval(), torch.randn(4, 8, 6, 6)
    expected = model(x)
    onepass.nn.fuse(model)
    program = torch.export.export(model, (x,))
    assert "onepass" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected)
    names = {str(node.target) for node in torch.fx.symbolic_trace(model).graph.nodes}
    assert {"bn1", "bn2", "relu"} <= names
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)

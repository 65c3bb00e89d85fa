"""fuse within checkpoints, transforms, tracers and compilers, and with code that dynamo cannot record."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fuse_models import Mlp, Residual
from onepass.nn import fuse
from tolerance import FLOAT32_STEPS

# Dynamo reads the gradient of what goes on behind a graph break; torch deprecates its tracer.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:`torch.jit.trace"),
]
BOTH = "fused with add, ReLU"


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x):
        return F.dropout(F.relu(self.norm(x)), 0.5, self.training)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_draws_one_mask(reentrant):
    """The bias' gradient counts the elements that the first pass kept."""
    model, x = Drops(), torch.randn(64, 16, requires_grad=True)
    fuse(model)
    for _ in range(2):
        model.zero_grad()
        y = checkpoint(model, x, use_reentrant=reentrant)
        kept = (y.detach() != 0).sum(0).float()
        y.sum().backward()
        assert torch.equal(model.norm.bias.grad, 2 * kept)


def test_a_checkpoint_in_the_forward():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Mlp(), Mlp()

        def forward(self, x):
            return self.b(checkpoint(self.a, x, use_reentrant=False))

    torch.manual_seed(0)
    model, x = Outer(), torch.randn(32, 16)
    plain, fusion = copy.deepcopy(model), fuse(model)
    for _ in range(2):
        for one in (model, plain):
            one(x).sum().backward()
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))
    assert all("tag_activation_checkpoint" in place.note for place in fusion.table)


def test_a_graph_break_and_example_inputs(capsys):
    class Prints(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Residual(), Residual()

        def forward(self, x):
            y = self.a(x)
            print("between")
            return self.b(y)

    model, x = Prints(), torch.randn(2, 8, 4, 4)
    plain, fusion = copy.deepcopy(model), fuse(model, x)
    assert capsys.readouterr().out == ""
    assert {place.outcome for place in fusion.table} == {"not recorded yet"}
    assert all(place.note for place in fusion.table)
    torch.testing.assert_close(model(x), plain(x))
    assert capsys.readouterr().out == "between\n" * 2
    assert [place.outcome for place in fusion.table] == ["fused with ReLU", BOTH] * 2


def test_lazy_parameters():
    model, x = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU()), torch.randn(8, 3)
    fusion = fuse(model)
    model(x)
    assert fusion.table[0].outcome == "not recorded yet"
    plain = copy.deepcopy(model)
    torch.testing.assert_close(model(x), plain(x))
    assert fusion.table[0].outcome == "fused with ReLU"


def test_warnings_and_branches_on_values():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x):
            warnings.warn("looks", stacklevel=1)
            if x.mean() > 0:
                x = x * 2
            return F.relu(self.norm(x))

    model, x = Looks(), torch.rand(2, 8, 4, 4)
    plain, _ = copy.deepcopy(model), fuse(model)
    for sign in (1, -1, 1):
        with pytest.warns(UserWarning, match="looks"):
            ours = model(sign * x)
        with pytest.warns(UserWarning, match="looks"):
            torch.testing.assert_close(ours, plain(sign * x))


def test_transforms_and_tracers():
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 8, 4, 4)
    fusion = fuse(model, x)
    expected = model._call_impl(x)
    torch.testing.assert_close(model(x), expected)
    parameters = dict(model.named_parameters())
    torch.testing.assert_close(torch.func.functional_call(model, parameters, (x,)), expected)
    torch.testing.assert_close(torch.vmap(model)(x[None])[0], expected)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(model))(x), expected)
    program = torch.export.export(model, (x,))
    assert "onepass" not in str(program.graph)
    outer = nn.Sequential(model)
    around = fuse(outer)
    torch.testing.assert_close(outer(x), expected)
    assert [place.outcome for place in around.table] == [place.outcome for place in fusion.table]


def test_higher_derivatives():
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(2, 8, 4, 4, requires_grad=True)
    plain, found = copy.deepcopy(model), []
    fuse(model)
    for one in (model, plain):
        (first,) = torch.autograd.grad(one(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(found[0] / found[1].norm(), found[1] / found[1].norm(), **FLOAT32_STEPS)


def test_autocast():
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(4, 8, 6, 6)
    plain, fusion = copy.deepcopy(model), fuse(model)
    exact = copy.deepcopy(model).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = model(x), plain(x)
    # The sum is of two dtypes.
    assert [place.outcome for place in fusion.table] == ["fused with ReLU", "left"]
    assert ours.dtype == theirs.dtype
    assert (ours.double() - exact).norm() <= 2 * (theirs.double() - exact).norm()

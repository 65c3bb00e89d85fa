"""fuse: what code must not do to be recorded, and a fused model that is changed, watched or wrapped."""

from __future__ import annotations

import copy
import random
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import onepass
from fuse_models import Functional, Mlp, Residual
from onepass.nn import fuse

LIMIT = 1.0


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.p, self.seen = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), 0.5, []


def context(self, x):
    with torch.no_grad():
        return F.relu(self.norm(x))


def branch(self, x):
    return F.relu(self.norm(x)) if x.shape[0] > 2 else self.norm(x)


def counts(self, x):
    self.count = 1
    return F.relu(self.norm(x))


def remembers(self, x):
    self.seen.append(1)
    return F.relu(self.norm(x))


def draws(self, x):
    return F.relu(self.norm(x)) * random.random()


def draws_with_torch(self, x):
    return F.relu(self.norm(x)) * torch.rand(1)


def catches(self, x):
    try:
        return F.relu(self.norm(x))
    except RuntimeError:
        return x


def asks_torch(self, x):
    return F.relu(self.norm(x)) if torch.is_grad_enabled() else self.norm(x)


def own_buffers(self, x):
    return F.relu(self.norm(x * (self.norm.running_mean + 1)[:, None, None]))


def prints(self, x):
    print("forward")
    return F.relu(self.norm(x))


def checkpoints(self, x):
    return checkpoint(lambda y: F.relu(self.norm(y)), x, use_reentrant=False)


def part_flag(self, x):
    return F.relu(self.norm(x)) if self.norm.training else self.norm(x)


IMPURE = {
    context: "has a context manager",
    branch: "its control flow depends on data or on shapes",
    counts: "has an attribute that it sets",
    remembers: "reads seen, a list, which can change",
    draws: "uses the module random",
    draws_with_torch: r"depends on rand\(\)",
    catches: "has an exception handler",
    asks_torch: r"depends on is_grad_enabled\(\)",
    own_buffers: "calls add on no argument of its own",
    prints: "calls print",
    checkpoints: "calls checkpoint of torch|variable of an outer function|context manager|calls",
    part_flag: "reads the training flag of norm",
}


@pytest.mark.parametrize("forward", IMPURE, ids=lambda f: f.__name__)
def test_code_that_does_more_is_left(forward):
    model = type("Impure", (Base,), {"forward": forward})()
    before = dict(model.__dict__)
    (place,) = fuse(model).table
    assert place.outcome == "left"
    assert re.match(rf"the model itself \(Impure\): ({IMPURE[forward]})", place.note), place.note
    assert type(model).__name__ == "Impure"
    assert model.__dict__ == before


def forward_of_limit(self, x):
    return F.relu(self.norm(x) if LIMIT > 0 else x)


class Flagged(Base):
    forward = forward_of_limit


def run(model, x):
    with torch.no_grad():
        return model(x)


def test_a_global_variable_that_changes(monkeypatch):
    model, x = Flagged().eval(), torch.randn(2, 3, 4, 4)
    assert fuse(model).table[0].outcome == "fused with ReLU"
    model.norm.weight.data.fill_(5)
    wide = run(model, x)
    monkeypatch.setitem(globals(), "LIMIT", -1.0)
    assert torch.equal(run(model, x), F.relu(x))
    monkeypatch.setitem(globals(), "LIMIT", 1.0)
    assert torch.equal(run(model, x), wide)


def test_attributes_that_change():
    """Each call looks at them; whatever is not as recorded runs the module's own forward."""
    model, x = Functional().eval(), torch.randn(4, 8, 5, 5)
    plain = copy.deepcopy(model)
    fuse(model)
    for change in (
        lambda m: None,
        lambda m: setattr(m, "adds", False),
        lambda m: setattr(m, "norm", nn.InstanceNorm2d(8)),
        lambda m: setattr(m, "conv", nn.Identity()),
    ):
        change(model), change(plain)
        torch.testing.assert_close(run(model, x), run(plain, x))
    torch.testing.assert_close(model(x, 2.0), plain(x, 2.0))
    torch.testing.assert_close(model(x, scale=0.5), plain(x, scale=0.5))
    torch.testing.assert_close(model(scale=1.0, x=x), plain(x))
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        model(x, scales=1.0)


def test_a_part_of_two_names():
    """It is recorded by its first name; another module of the second name is called all the same."""

    class Named(Base):
        def __init__(self):
            super().__init__()
            self.first = self.second = nn.ReLU()

        def forward(self, x):
            return self.second(self.norm(self.first(self.norm(x))))

    torch.manual_seed(0)
    model, x = Named(), torch.randn(4, 3, 5, 5)
    assert fuse(model).table[0].outcome == "fused with ReLU"
    plain = copy.deepcopy(model)
    onepass.nn.revert(plain)
    for one in (model, plain):
        one.second = nn.Tanh()
    torch.testing.assert_close(model(x), plain(x))


def test_other_layers_in_the_place():
    model, x = Residual(), torch.randn(4, 8, 5, 5)
    fuse(model)
    model.relu = nn.SiLU()
    model.bn2 = nn.GroupNorm(2, 8)
    plain = Residual()
    plain.relu, plain.bn2 = nn.SiLU(), nn.GroupNorm(2, 8)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize(
    ("make", "where"), [(Residual, "relu"), (Residual, "drop"), (Residual, ""), (Functional, "norm")]
)
def test_hooks_see_what_torchs_modules_show(make, where, kind):
    def seen(model, x):
        calls = []

        def hook(module, *values):
            tensors = [v for v in values for v in (v if isinstance(v, tuple) else (v,)) if v is not None]
            calls.append([t.detach().clone() for t in tensors])

        handle = getattr(model.get_submodule(where), f"register_{kind}_hook")(hook)
        model(x).square().sum().backward()
        handle.remove()
        return calls

    torch.manual_seed(0)
    model, x = make(), torch.randn(4, 8, 5, 5)
    if isinstance(model, Residual):
        model.relu.inplace = False
    plain = copy.deepcopy(model)
    fuse(model)
    ours, theirs = seen(model, x.requires_grad_()), seen(plain, x)
    assert len(ours) == len(theirs) > 0
    torch.testing.assert_close(ours, theirs)


def test_hooks_that_are_there_before():
    model = Residual()
    model.bn2.register_forward_hook(lambda *_: None)
    model.relu.register_forward_hook(lambda *_: None)
    assert [(place.outcome, place.note) for place in fuse(model).table] == [
        ("left", "the model itself (Residual): the ReLU has forward hooks"),
        ("left", "the model itself (Residual): it has forward hooks"),
    ]


def test_training_and_evaluation_of_parts():
    """A batch norm that is frozen, and a dropout that goes on."""
    torch.manual_seed(0)
    model = Mlp(p=0.5)
    plain = copy.deepcopy(model)
    onepass.nn.convert(plain)
    fuse(model)
    x = torch.randn(32, 16)
    for change in (
        lambda m: m.norm.eval(),
        lambda m: (m.train(), m.drop.eval()),
        lambda m: (m.eval(), m.drop.train()),
        lambda m: (m.train(), setattr(m.drop, "p", 0.9)),
    ):
        outputs = []
        for one in (model, plain):
            change(one)
            torch.manual_seed(1)
            outputs.append(one(x))
        torch.testing.assert_close(*outputs)


def test_autocast_and_other_dtypes():
    """Under autocast the sum promotes; the pass takes what has one dtype."""
    torch.manual_seed(0)
    model, x = nn.Sequential(Residual(shortcut=True), Residual()), torch.randn(4, 8, 5, 5)
    plain = copy.deepcopy(model)
    fuse(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = model(x), plain(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    exact = copy.deepcopy(plain).double()(x.double())
    assert (ours.double() - exact).norm() <= 2 * (theirs.double() - exact).norm()
    broadcast = Functional()
    broadcast.conv = nn.Conv2d(1, 8, 1)
    other = copy.deepcopy(broadcast)
    fuse(broadcast)
    one = torch.randn(4, 1, 5, 5)
    torch.testing.assert_close(broadcast(one), other(one))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    torch.manual_seed(0)
    model, x = Residual(dropout=0.5), torch.randn(4, 8, 5, 5, requires_grad=True)
    fuse(model)
    grads, statistics = [], []
    for kept in (True, False):
        one = copy.deepcopy(model)
        torch.manual_seed(1)
        y = one(x) if kept else checkpoint(one, x, use_reentrant=reentrant)
        grads.append(torch.autograd.grad(y.square().sum(), x)[0] if not reentrant else _grad(y, x))
        statistics.append(list(one.buffers()))
    assert torch.equal(*grads)
    assert all(map(torch.equal, *statistics))


def _grad(y, x):
    x.grad = None
    y.square().sum().backward()
    return x.grad


def test_any_batch_size():
    model = Residual()
    fuse(model, torch.randn(2, 8, 4, 4))
    plain = copy.deepcopy(model)
    onepass.nn.revert(plain)
    for shape in ((1, 8, 4, 4), (5, 8, 3, 7), (2, 8, 1, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(model(x), plain(x))


def test_example_inputs():
    model = Functional()
    fuse(model, {"x": torch.randn(2, 8, 4, 4)})
    with pytest.raises(TypeError, match=r"^fuse: example_inputs must be a tensor, a tuple of arguments, a dict"):
        fuse(model, 3)
    with pytest.raises(TypeError, match=r"^fuse: model must be a torch.nn.Module, got 3"):
        fuse(3)
    fresh, state = Functional(), torch.get_rng_state()
    kept = copy.deepcopy(fresh.state_dict())
    with pytest.raises(RuntimeError):
        fuse(fresh, torch.randn(2, 5, 4, 4))  # the model refuses
    assert [type(one) for one in fresh.modules()] == [type(one) for one in Functional().modules()]
    torch.set_rng_state(state)
    fuse(fresh, (torch.ones(2, 8, 4, 4),))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(fresh.state_dict(), kept, rtol=0, atol=0)


def test_a_model_that_computes_something_else_is_refused(monkeypatch):
    from onepass.nn.fusion import survey

    monkeypatch.setattr(survey, "chain", wrong_chain)
    model = Residual()
    with pytest.raises(
        RuntimeError, match=r"^fuse: model must compute the same with example_inputs, got a result of"
    ):
        fuse(model, torch.randn(2, 8, 4, 4))
    assert [type(one) for one in model.modules()] == [type(one) for one in Residual().modules()]


def wrong_chain(norm, input, *steps):
    return norm(input)


def test_fused_twice():
    model, x = Residual(), torch.randn(2, 8, 4, 4)
    first = fuse(model)
    again = fuse(model)
    assert [place.outcome for place in again.table] == [place.outcome for place in first.table]
    again.revert()
    expected = Residual()
    expected.load_state_dict(model.state_dict())
    assert "onepass" in type(model.bn1).__module__
    torch.testing.assert_close(model(x), expected(x))
    first.revert()
    assert type(model) is Residual

"""fuse: what it finds in forward code, that results are as before, and the way back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import onepass
from fuse_models import Functional, Generator, Mlp, Residual, UNet, assert_parity_by_norm, results
from onepass.nn import fuse
from onepass.nn.fusion.chain import Chain
from tolerance import FLOAT32_STEPS, FLOAT64, assert_parity

MODELS = {
    "residual": (Residual, (4, 8, 6, 6)),
    "shortcut": (lambda: Residual(shortcut=True), (4, 8, 6, 6)),
    "functional": (Functional, (4, 8, 6, 6)),
    "unet": (UNet, (2, 1, 8, 8)),
    "generator": (Generator, (4, 6)),
    "mlp": (Mlp, (32, 16)),
}
each_model = pytest.mark.parametrize("name", MODELS)
RELU, BOTH = "fused with ReLU", "fused with add, ReLU"


def made(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    return make(), torch.randn(shape)


def outcomes(fusion):
    return {place.name: place.outcome for place in fusion.table}


@each_model
def test_a_step_is_as_accurate_as_torchs(name):
    """Output, gradients and running statistics of training, and evaluation after it, by the rule of parity."""
    model, x = made(name)
    if name == "residual":
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    exact = results(copy.deepcopy(model).double(), x.double())
    ours = copy.deepcopy(model)
    keys = list(ours.state_dict())
    fusion = fuse(ours)
    got, theirs = results(ours, x), results(model, x)
    fused = {place.name for place in fusion.table if place.outcome.startswith("fused with")}
    assert {place.name for place in fusion.table} - fused == ({"bn2"} if name == "shortcut" else set())
    assert list(ours.state_dict()) == keys
    if name == "unet":  # of several layers: each kind of result by its norm
        assert_parity_by_norm(len(list(ours.parameters())), got, theirs, exact)
        return
    for i, values in enumerate(zip(got, theirs, exact, strict=True)):
        assert_parity(*values, what=f"result {i}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    model, x = made("residual")
    exact = results(copy.deepcopy(model).double(), x.to(dtype).double())
    model, x = model.to(dtype), x.to(dtype)
    ours = copy.deepcopy(model)
    fusion = fuse(ours)
    got, theirs = results(ours, x), results(model, x)
    assert outcomes(fusion) == {"bn1": RELU, "bn2": BOTH}
    if dtype is torch.float64:
        torch.testing.assert_close(got, theirs, **FLOAT64)
    else:
        assert_parity_by_norm(len(list(ours.parameters())), got, theirs, exact)


def test_revert_gives_the_model_back():
    model, x = made("residual")
    model.eval()
    before = dict(model.__dict__)
    kept = [id(one) for one in (*model.modules(), *model.parameters(), *model.buffers())]
    plain = copy.deepcopy(model)
    fusion = fuse(model)
    model(x), plain(x)
    assert str(model) == str(plain)
    fusion.revert()
    assert model.__dict__ == before
    assert [id(one) for one in (*model.modules(), *model.parameters(), *model.buffers())] == kept
    model.load_state_dict(plain.state_dict())
    assert all(map(torch.equal, results(model, x), results(plain, x)))
    with pytest.raises(RuntimeError, match=r"^revert: the fusion must not have been reverted before"):
        fusion.revert()
    fuse(model)
    assert onepass.nn.revert(model.eval()).__dict__ == before


def test_copies_and_pickles_are_the_model_as_it_was():
    class Whole(Residual):
        """Pickles all of its attributes."""

        def __getstate__(self):
            return self.__dict__

    for kind in (Residual, Whole):
        torch.manual_seed(0)
        model, x = kind(), torch.randn(4, 8, 6, 6)
        plain = copy.deepcopy(model)
        fuse(model)
        model(x), plain(x)
        others = [copy.deepcopy(model)]
        others += [pickle.loads(pickle.dumps(model))] if kind is Residual else []
        for other in others:
            assert other._compiled_call_impl is None
            ours, theirs = results(other, x), results(copy.deepcopy(plain), x)
            torch.testing.assert_close(ours[0], theirs[0])
            torch.testing.assert_close(ours[-1], theirs[-1])


def test_a_shallow_copy_calls_itself():
    """A replica that shares the attributes, but has other parameters."""
    model, x = made("residual")
    fuse(model)
    model.eval()(x)
    replica = model.__new__(type(model))
    replica.__dict__ = {**model.__dict__, "_modules": dict(model._modules)}
    replica._modules["bn2"] = nn.BatchNorm2d(8).eval()
    nn.init.constant_(replica._modules["bn2"].bias, 3.0)
    assert torch.equal(replica(x), replica._call_impl(x))
    assert not torch.equal(replica(x), model(x))


def test_what_print_shows():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = Residual(shortcut=True), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

        def forward(self, x):
            y = self.b(self.a(x))
            return F.silu(y) if self.training else y, y

    model = Two()
    fusion = fuse(model, torch.randn(2, 8, 4, 4))
    assert str(fusion).splitlines() == [
        "a.bn1         BatchNorm2d  fused with ReLU",
        "a.bn2         BatchNorm2d  left                  input_1 runs between it and out_2",
        "a.shortcut.1  BatchNorm2d  fused with add, ReLU",
        "b             BatchNorm2d  left                  its result is used 2 times",
        "c             BatchNorm2d  not recorded yet",
    ]
    assert str(fuse(nn.Linear(2, 2))) == "no batch norm"


def test_example_inputs_run_nothing():
    """Neither the model's tensors nor the generator nor what the forward's code does beside them."""
    calls = []

    class Counting(Residual):
        def forward(self, x):
            calls.append(1)
            self.calls = getattr(self, "calls", 0) + 1
            x.mul_(2)
            return super().forward(x)

    torch.manual_seed(0)
    model, x = Counting(dropout=0.5), torch.randn(2, 8, 4, 4)
    before, state, given = copy.deepcopy(model.state_dict()), torch.get_rng_state(), x.clone()
    fusion = fuse(model, x)
    assert outcomes(fusion) == {"bn1": RELU, "bn2": "fused with add, ReLU, dropout"}
    assert torch.equal(state, torch.get_rng_state()), "it has drawn"
    assert torch.equal(x, given), "it has changed the input"
    assert calls == []
    assert not hasattr(model, "calls")
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    model(x)
    assert calls == [1]
    assert model.calls == 1
    # The first call uses what was recorded, until the counter it reads is another one.
    assert fusion.graphs == 1


@pytest.mark.parametrize("given", [{"x": 2.0}, (2.0,), [1.0]])
def test_kinds_of_example_inputs(given):
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            x = x[0] if isinstance(x, list) else x
            return F.relu(self.norm(torch.ones(4, 3) * x))

    assert outcomes(fuse(Takes(), given)) == {"norm": RELU}


@pytest.mark.parametrize("make", [lambda: Residual(dropout=0.5), lambda: Mlp(p=0.5), lambda: Functional(p=0.5)])
def test_dropout_in_the_pass(make):
    """Half of the elements are dropped in training, and none in evaluation."""
    torch.manual_seed(0)
    model = make()
    x = torch.randn(64, 16) if isinstance(model, Mlp) else torch.randn(16, 8, 6, 6)
    plain, kept = copy.deepcopy(model), copy.deepcopy(model)
    for module in kept.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    kept.p = 0.0
    fusion = fuse(model)
    y = model(x)
    if isinstance(model, Mlp):  # its first part drops, too
        return
    assert "dropout" in fusion.table[-1].outcome
    full = kept(x)
    dropped = (y == 0) & (full > 0)
    assert 0.4 < float(dropped.sum() / (full > 0).sum()) < 0.6
    torch.testing.assert_close(y[~dropped], 2 * full[~dropped], **FLOAT32_STEPS)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))


def test_dynamic_batch_and_recordings():
    """Each further size of the batch runs the second recording."""
    model, _ = made("residual")
    plain, fusion = copy.deepcopy(model), fuse(model)
    for size in (2, 3, 5, 7):
        x = torch.randn(size, 8, 4, 4)
        torch.testing.assert_close(model(x), plain(x))
    assert fusion.graphs == 2
    assert outcomes(fusion) == {"bn1": RELU, "bn2": BOTH}


def test_a_converted_model():
    model, x = made("shortcut")
    plain = copy.deepcopy(model)
    onepass.nn.convert(model, fuse_relu=True)
    fusion = fuse(model)
    exact = results(copy.deepcopy(plain).double(), x.double())
    got, theirs = results(model, x), results(plain, x)
    assert outcomes(fusion) == {"bn1": RELU, "bn2": "left", "shortcut.1": BOTH}
    assert_parity_by_norm(len(list(plain.parameters())), got, theirs, exact)


def test_every_chain_runs_in_one_pass(monkeypatch):
    """No test above compares the fallback with itself."""
    model, x = made("residual")
    fuse(model)

    def refuse(self, *inputs):
        raise AssertionError("one by one")

    monkeypatch.setattr(Chain, "_one_by_one", refuse)
    results(model, x)


def test_refusals():
    with pytest.raises(TypeError, match=r"^fuse: model must be"):
        fuse(3)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    fuse(model)
    with pytest.raises(ValueError, match=r"^fuse: model must not be fused already"):
        fuse(model)
    other = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    other.compile(backend="eager")
    with pytest.raises(ValueError, match=r"^fuse: model must not be compiled already"):
        fuse(other)


def test_an_older_torch(monkeypatch):
    from onepass.nn.fusion import call

    monkeypatch.setitem(call._STRICT, "a_setting", False)
    model = nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError, match=r"^fuse: torch must be 2.13 or later, got .* no setting a_setting"):
        fuse(model)
    assert model._compiled_call_impl is None

"""Our layers in TorchScript: scripted they are torch's operators, traced they are our own."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import onepass.nn

pytestmark = [
    # TorchScript itself is deprecated, and traced checks of arguments are told to be constants.
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\..*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
LABELS = torch.tensor([1, 0, -100, 2])
LAYERS = [
    ("BatchNorm1d", (3,), {}, (4, 3)),
    ("BatchNorm1d", (3,), {"momentum": None}, (4, 3, 5)),
    ("BatchNorm2d", (3,), {"affine": False}, (4, 3, 5, 5)),
    ("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 5, 5)),
    ("BatchNorm3d", (3,), {"momentum": 0.3, "eps": 1e-3}, (4, 3, 2, 2, 2)),
    ("Dropout", (0.3,), {}, (4, 3)),
    ("Dropout", (0.3, True), {}, (4, 3)),
    ("Dropout1d", (0.3,), {}, (3, 5)),
    ("Dropout1d", (0.3,), {}, (4, 3, 5)),
    ("Dropout2d", (0.3,), {}, (4, 3, 5, 5)),
    ("Dropout3d", (0.3,), {}, (3, 2, 2, 2)),
    ("Dropout3d", (0.3,), {}, (4, 3, 2, 2, 2)),
    ("AlphaDropout", (0.3,), {}, (4, 3)),
    ("FeatureAlphaDropout", (0.3,), {}, (4, 3, 5)),
]


def saved(scripted: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The module as another process finds it."""
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize(
    "layer", LAYERS, ids=lambda layer: f"{layer[0]}{layer[1][1:]}{layer[2] or ''}{len(layer[3])}"
)
def test_scripted_layers_are_torchs(layer):
    """In both modes, moved between them after scripting, saved and loaded."""
    name, arguments, options, shape = layer
    model = nn.Sequential(getattr(onepass.nn, name)(*arguments, **options))
    theirs = nn.Sequential(getattr(nn, name)(*arguments, **options))
    for scripted in (torch.jit.script(copy.deepcopy(model)), saved(torch.jit.script(copy.deepcopy(model)))):
        twin = copy.deepcopy(theirs)
        assert "onepass::" not in str(scripted.inlined_graph)
        for training in (True, False, True):
            x = torch.randn(shape)
            torch.manual_seed(1)
            found = scripted.train(training)(x.clone())
            torch.manual_seed(1)
            torch.testing.assert_close(found, twin.train(training)(x.clone()))
        for one, other in zip(scripted.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(one, other)


def test_scripting_leaves_the_model_as_it_is():
    model = nn.Sequential(onepass.nn.BatchNorm1d(3, activation="relu"), onepass.nn.Dropout(0.0))
    modules, x = list(model.modules()), torch.randn(4, 3)
    scripted = torch.jit.script(model)
    assert [id(one) for one in model.modules()] == [id(one) for one in modules]
    assert [vars(one).keys() for one in model.modules()] == [vars(one).keys() for one in modules]
    model.eval()
    scripted.eval()
    torch.testing.assert_close(scripted(x), model(x))
    assert model[0].weight.data_ptr() == next(scripted.parameters()).data_ptr()


def test_what_our_layers_do_more_is_scripted():
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = onepass.nn.BatchNorm2d(3, activation="relu", dropout=0.5)
            self.drop = onepass.nn.Dropout(0.25, scaling="test_time")

        def forward(self, x):
            return self.drop(self.norm(x, x), residual=x)

    model, x = Network(), torch.randn(4, 3, 5, 5)
    model(x)
    scripted = torch.jit.script(model.eval())
    torch.testing.assert_close(scripted(x), model(x))
    scripted.train()
    torch.manual_seed(1)
    found = scripted(x)
    torch.manual_seed(1)
    wanted = torch.dropout(torch.relu(nn.BatchNorm2d(3)(x) + x), 0.5, True)
    torch.testing.assert_close(found, torch.dropout(wanted, 0.25, True) * 0.75 + x)


def test_a_converted_model_is_scripted():
    """Its modules have our options as the class's attributes alone."""
    model, x = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.AlphaDropout()), torch.randn(4, 3)
    onepass.nn.convert(model)
    torch.testing.assert_close(torch.jit.script(model.eval())(x), model(x))


class Stage(nn.Sequential):
    """A container of a class of its own."""


def test_containers_that_fuse_are_scripted():
    inner = Stage(nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.0))
    model, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), inner), torch.randn(4, 3)
    onepass.nn.convert(model, fuse_relu=True)
    assert isinstance(model, onepass.nn.Sequential)
    assert isinstance(model[3], onepass.nn.Sequential)
    kinds = [type(module) for module in model.modules()]
    twin = onepass.nn.revert(copy.deepcopy(model))
    scripted = saved(torch.jit.script(model))
    assert [type(module) for module in model.modules()] == kinds
    for training in (True, False):
        for one in (scripted, twin):
            one.train(training)
        torch.testing.assert_close(scripted(x), twin(x))
    for one, other in zip(scripted.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", [{}, {"weight": torch.rand(3)}, {"label_smoothing": 0.2, "reduction": "sum"}])
def test_a_scripted_loss_is_torchs(options):
    x = torch.randn(4, 3)
    for target in (LABELS, torch.rand(4, 3)):
        scripted = torch.jit.script(onepass.nn.CrossEntropyLoss(**options))
        assert torch.equal(scripted(x, target), nn.CrossEntropyLoss(**options)(x, target))
    with pytest.raises(Exception, match="target2 and lam must be None in TorchScript"):
        scripted(x, LABELS, LABELS, 0.5)


def sampled() -> nn.Module:
    layer = onepass.nn.Dropout()
    layer._thinned = lambda module: 3
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (sampled(), "Dropout: the module must be outside of mc_dropout .*revert"),
        (onepass.nn.CrossEntropyLoss(z_loss=0.1), "CrossEntropyLoss: z_loss must be 0.0 "),
        (onepass.nn.CrossEntropyLoss(return_stats=True), "CrossEntropyLoss: return_stats must be False "),
    ],
)
def test_what_cannot_be_scripted_is_refused(layer, message):
    with pytest.raises(RuntimeError, match=message):
        torch.jit.script(nn.Sequential(layer))


def test_scripted_calls_refuse_what_they_would_ignore():
    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = onepass.nn.Dropout()
            self.norm = onepass.nn.BatchNorm1d(3)

        def forward(self, x, r, seed: int | None):
            return self.drop(self.norm(x, r), seed=seed)

    scripted = torch.jit.script(Call())
    x = torch.randn(4, 3)
    with pytest.raises(Exception, match="generator and seed must be None in TorchScript"):
        scripted(x, x, 3)
    with pytest.raises(Exception, match="residual must have input's dtype and shape"):
        scripted(x, x[:1], None)


@pytest.mark.parametrize("training", [True, False])
def test_traced_modules_keep_the_flag_of_the_trace(training):
    """torch's modules do the same. The operators are ours, so values and running statistics are the eager ones."""
    model = nn.Sequential(onepass.nn.BatchNorm1d(3, activation="relu"), onepass.nn.Dropout(1.0)).train(training)
    example = torch.randn(4, 3)
    traced = torch.jit.trace(copy.deepcopy(model), example, check_trace=False)
    theirs = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(1.0)).train(training)
    torchs = torch.jit.trace(theirs, example, check_trace=False)
    for one in (traced, torchs):
        one.train(not training)
    x = torch.randn(4, 3)
    wanted = torchs(x)
    copied = saved(traced)
    torch.testing.assert_close(copied(x), wanted)
    for one, other in zip(copied.buffers(), torchs.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_container_that_fuses_is_scripted():
    model, x = onepass.nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), onepass.nn.BatchNorm1d(3)), torch.randn(4, 3)
    onepass.nn.convert(model, fuse_relu=True)
    torch.testing.assert_close(torch.jit.script(model.eval())(x), model(x))

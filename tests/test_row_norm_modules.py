"""LayerNorm and RMSNorm as modules: torch's interface, convert and back, refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import onepass.nn
from onepass.nn import functional as ours

BOTH = ("LayerNorm", "RMSNorm")


def pair(kind: str, *arguments, **options):
    """Our module and torch's, with the same weights."""
    mine, torchs = getattr(onepass.nn, kind)(*arguments, **options), getattr(nn, kind)(*arguments, **options)
    with torch.no_grad():
        for parameter in torchs.parameters():
            parameter.normal_()
    mine.load_state_dict(torchs.state_dict())
    return mine, torchs


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("shape", "options"),
    [(6, {}), ([4, 6], {"eps": 1e-3}), ((6,), {"elementwise_affine": False}), (6, {"dtype": torch.float64})],
    ids=str,
)
def test_is_torchs(kind, shape, options):
    """Class, repr, state and numbers."""
    mine, torchs = pair(kind, shape, **options)
    x = torch.randn(3, 4, 6, dtype=options.get("dtype", torch.float32))
    assert isinstance(mine, type(torchs))
    assert repr(mine) == repr(torchs)
    assert list(mine.state_dict()) == list(torchs.state_dict())
    torch.testing.assert_close(mine(x), torchs(x))


def test_without_bias():
    mine, torchs = pair("LayerNorm", 6, bias=False)
    assert mine.bias is None
    torch.testing.assert_close(mine(torch.ones(2, 6)), torchs(torch.ones(2, 6)))


@pytest.mark.parametrize("kind", BOTH)
def test_dropout_only_in_training(kind):
    norm = getattr(onepass.nn, kind)(50, dropout=0.5)
    x, residual = torch.randn(4, 50), torch.randn(4, 50)
    y, h = norm(x, residual)
    assert not torch.equal(h, x + residual)
    y, h = norm.eval()(x, residual)
    assert torch.equal(h, x + residual)
    assert torch.equal(y, getattr(ours, norm._function)(h, [50], norm.weight, eps=norm.eps))
    assert "dropout=0.5" in repr(norm)


@pytest.mark.parametrize("kind", BOTH)
def test_dropout_without_residual_is_refused(kind):
    norm = getattr(onepass.nn, kind)(5, dropout=0.5)
    for training in (True, False):
        with pytest.raises(ValueError, match=r"residual must be given to a module with dropout=0\.5, got None"):
            norm.train(training)(torch.randn(2, 5))


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"normalized_shape": []}, "normalized_shape must have at least 1 dimension"),
        ({"normalized_shape": [-1]}, "normalized_shape must"),
        ({"eps": float("nan")}, "eps must be a number, got nan"),
        ({"dropout": 1.5}, "dropout must be at least 0 and at most 1, got 1.5"),
    ],
    ids=str,
)
def test_refused_options(kind, options, match):
    with pytest.raises(ValueError, match=match):
        getattr(onepass.nn, kind)(**{"normalized_shape": 4, **options})


ROWS = torch.randn(2, 4)
WIDE = torch.ones(4, dtype=torch.float64)


@pytest.mark.parametrize("function", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"normalized_shape": [3]}, ValueError, r"input must end in normalized_shape \[3\], got shape \[2, 4\]"),
        ({"normalized_shape": []}, ValueError, "normalized_shape must have at least 1 dimension"),
        ({"normalized_shape": 4}, TypeError, "normalized_shape must be a list of integers, got 4"),
        ({"input": ROWS.int()}, TypeError, "input must be torch.float32, .*, got torch.int32"),
        ({"input": ROWS.to_sparse()}, TypeError, "input must be dense"),
        ({"weight": torch.ones(3)}, ValueError, r"weight must have normalized_shape \[4\], got shape \[3\]"),
        ({"weight": WIDE}, TypeError, "weight must be torch.float32, got torch.float64"),
        ({"weight": 1.0}, TypeError, "weight must be a tensor or None, got 1.0"),
        ({"eps": float("nan")}, ValueError, "eps must be a number, got nan"),
        ({"eps": "x"}, TypeError, "eps must be a number, got 'x'"),
        ({"dropout": 2.0, "residual": ROWS}, ValueError, "dropout must be at least 0 and at most 1, got 2.0"),
        ({"dropout": 0.5}, ValueError, r"residual must be given with dropout=0\.5, got None"),
        ({"residual": ROWS[:1]}, ValueError, "residual must have input's dtype and shape"),
        ({"residual": ROWS.double()}, ValueError, "residual must have input's dtype and shape"),
        ({"seed": 1}, ValueError, "seed must be None with dropout=0, got one"),
        ({"residual": ROWS, "dropout": 0.5, "seed": -1}, ValueError, "seed must be at least 0"),
        (
            {"residual": ROWS, "dropout": 0.5, "seed": 1, "generator": torch.Generator()},
            ValueError,
            "one of generator and seed must be None, got both",
        ),
    ],
)
def test_refused_calls(function, options, error, match):
    arguments = {"input": ROWS, "normalized_shape": [4], **options}
    before = torch.get_rng_state()
    with pytest.raises(error, match=f"^{function}: .*{match}"):
        getattr(ours, function)(**arguments)
    assert torch.equal(torch.get_rng_state(), before)


def test_inference_tensors_are_refused_by_name():
    with torch.inference_mode():
        x = torch.randn(2, 4)
    weight = torch.ones(4, requires_grad=True)
    with pytest.raises(RuntimeError, match="input must not be an inference tensor"):
        ours.layer_norm(x, [4], weight)


def test_convert_and_back():
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.RMSNorm(4))
    torchs = copy.deepcopy(model)
    conversion = onepass.nn.convert(model)
    assert [entry[:3] for entry in conversion.table] == [
        ("0", "LayerNorm", "replaced"),
        ("2", "RMSNorm", "replaced"),
    ]
    assert type(model[0]) is onepass.nn.LayerNorm
    assert type(model[2]) is onepass.nn.RMSNorm
    x = torch.randn(3, 4)
    torch.testing.assert_close(model(x), torchs(x))
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(made(x), model(x))
        onepass.nn.revert(made)
        assert type(made[0]) is nn.LayerNorm
        assert torch.equal(made(x), torchs(x))
    conversion.revert()
    assert type(model[2]) is nn.RMSNorm


def test_convert_leaves_what_it_does_not_know():
    class Mine(nn.LayerNorm):
        pass

    model = nn.ModuleDict({"own": Mine(4), "ours": onepass.nn.LayerNorm(4)})
    notes = {entry.name: entry.note for entry in onepass.nn.convert(model).table}
    assert notes == {"own": "is not exactly torch's LayerNorm, RMSNorm", "ours": "is of onepass already"}


def test_convert_within_torchs_transformer():
    """torch's own fast path reads the parameters; training and evaluation give torch's numbers."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model, x = copy.deepcopy(layer), torch.randn(2, 3, 8)
    onepass.nn.convert(model)
    for training in (True, False):
        torch.testing.assert_close(model.train(training)(x), layer.train(training)(x))


def test_revert_refuses_dropout():
    with pytest.raises(ValueError, match=r"dropout of the model itself .* must be 0"):
        onepass.nn.revert(onepass.nn.LayerNorm(4, dropout=0.5))


@pytest.mark.filterwarnings(r"ignore:`torch\.jit\..*` is deprecated")
@pytest.mark.parametrize("kind", BOTH)
def test_scripted_is_torchs(kind):
    norm = getattr(onepass.nn, kind)(4)
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.jit.script(norm)(x), norm(x))
    torch.testing.assert_close(torch.jit.script(nn.Sequential(norm))(x), norm(x))
    with pytest.raises(RuntimeError, match="dropout must be 0 under"):
        torch.jit.script(getattr(onepass.nn, kind)(4, dropout=0.5))


@pytest.mark.parametrize("kind", BOTH)
def test_is_a_leaf_of_fx(kind):
    model = nn.Sequential(getattr(onepass.nn, kind)(4))
    graph = torch.fx.symbolic_trace(model)
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]
    x = torch.randn(3, 4)
    assert torch.equal(graph(x), model(x))


def test_mc_dropout_draws_for_networks():
    """In a block the module's dropout is active, and all examples of a network share a mask."""
    norm = onepass.nn.LayerNorm(200, dropout=0.5).eval()
    x = torch.ones(3, 200)
    with onepass.nn.mc_dropout(norm) as draws:
        draws.set_draw(0)
        _, h = norm(x, torch.zeros(3, 200))
    assert (h == 0).any()
    assert torch.equal(h[0], h[1])


def test_parametrised_weight():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    norm = onepass.nn.LayerNorm(4)
    nn.utils.parametrize.register_parametrization(norm, "weight", Double())
    x = torch.randn(3, 4)
    torch.testing.assert_close(norm(x), nn.functional.layer_norm(x, [4], torch.full((4,), 2.0)))


def test_sizes_that_are_no_integers_are_refused_and_remembered_by_nobody():
    x = torch.randn(2, 8)
    for sizes in ((8.0,), [8.0], ("8",)):
        with pytest.raises(TypeError, match="layer_norm: normalized_shape must be a list of integers"):
            onepass.nn.functional.layer_norm(x, sizes, eps=0.123)
    assert onepass.nn.functional.layer_norm(x, (8,), eps=0.123).shape == x.shape


def test_a_layer_norm_needs_an_epsilon():
    with pytest.raises(TypeError, match="eps"):
        onepass.nn.LayerNorm(8, eps=None)
    with pytest.raises(TypeError, match="eps"):
        onepass.nn.functional.layer_norm(torch.randn(2, 8), (8,), eps=None)

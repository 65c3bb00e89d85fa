"""Our layers in torch.export: torch's own operators, which tools move between training and evaluation."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onepass.nn
from onepass.nn import functional
from onepass.nn._call import exporting

STRICT = pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
LABELS = torch.tensor([1, 0, -100, 2])

# Name, arguments and options that torch's classes have, too, and an input's shape.
LAYERS = [
    ("BatchNorm1d", (3,), {}, (4, 3)),
    ("BatchNorm1d", (3,), {"momentum": 0.3, "eps": 1e-3}, (4, 3, 5)),
    ("BatchNorm2d", (3,), {}, (4, 3, 5, 5)),
    ("BatchNorm2d", (3,), {"affine": False}, (4, 3, 5, 5)),
    ("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 5, 5)),
    ("BatchNorm3d", (3,), {}, (4, 3, 2, 2, 2)),
    ("Dropout", (0.3,), {}, (4, 3)),
    ("Dropout1d", (0.3,), {}, (3, 5)),
    ("Dropout1d", (0.3,), {}, (4, 3, 5)),
    ("Dropout2d", (0.3,), {}, (4, 3, 5, 5)),
    ("Dropout3d", (0.3,), {}, (3, 2, 2, 2)),
    ("Dropout3d", (0.3,), {}, (4, 3, 2, 2, 2)),
    ("AlphaDropout", (0.3,), {}, (4, 3)),
    ("FeatureAlphaDropout", (0.3,), {}, (4, 3, 5)),
]
EACH = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{layer[0]}{layer[2] or ''}{len(layer[3])}")


def operators(exported: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]


def calls(exported: torch.export.ExportedProgram) -> list[tuple[str, str]]:
    """The graph's calls with their arguments, without those that only check the kinds of tensors.

    Parameters and buffers go by their names in the model: those of placeholders tell how dynamo found them.
    """
    names = {**exported.graph_signature.inputs_to_parameters, **exported.graph_signature.inputs_to_buffers}
    found = [node for node in exported.graph.nodes if node.op == "call_function"]
    return [
        (str(node.target), str([names.get(getattr(one, "name", None), one) for one in node.args]))
        for node in found
        if "_assert" not in str(node.target)
    ]


@EACH
@TRAINING
@STRICT
def test_a_layer_is_torchs_graph(layer, training, strict):
    name, arguments, options, shape = layer
    x = torch.randn(shape)
    mine, theirs = (
        torch.export.export(
            nn.Sequential(getattr(where, name)(*arguments, **options)).train(training), (x,), strict=strict
        )
        for where in (onepass.nn, nn)
    )
    assert calls(mine) == calls(theirs)
    assert "onepass" not in str(mine.graph)
    assert mine.state_dict.keys() == theirs.state_dict.keys()


@pytest.mark.parametrize("options", [{}, {"weight": torch.rand(3)}, {"label_smoothing": 0.1, "reduction": "none"}])
@STRICT
def test_the_loss_is_torchs_graph(options, strict):
    for target in (LABELS, torch.rand(4, 3)):
        mine, theirs = (
            torch.export.export(where.CrossEntropyLoss(**options), (torch.randn(4, 3), target), strict=strict)
            for where in (onepass.nn, nn)
        )
        assert calls(mine) == calls(theirs)


class Network(nn.Module):
    """Batch norm with all that it does at once, a dropout with a residual and one that scales in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = onepass.nn.BatchNorm2d(3, activation="relu", dropout=0.5)
        self.drop = onepass.nn.Dropout(0.25)
        self.scaled = onepass.nn.Dropout2d(0.25, scaling="test_time")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(self.drop(self.norm(x, residual=x), residual=x))


@STRICT
def test_evaluation_computes_what_the_model_does(strict):
    model, x = Network(), torch.randn(4, 3, 5, 5)
    model(x)
    model.eval()
    exported = torch.export.export(model, (x,), strict=strict, dynamic_shapes=({0: torch.export.Dim("n")},))
    for batch in (4, 7):
        x = torch.randn(batch, 3, 5, 5)
        torch.testing.assert_close(exported.module()(x), model(x))
    assert "onepass" not in str(exported.graph)
    compiled = torch.compile(exported.module(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


@STRICT
def test_training_computes_what_torchs_does(strict):
    """Running statistics agree, too, and so do the masks that torch's operators draw."""
    model, x = Network().train(), torch.randn(4, 3, 5, 5)
    exported = torch.export.export(copy.deepcopy(model), (x,), strict=strict).module()
    theirs = nn.BatchNorm2d(3)
    for _ in range(2):
        torch.manual_seed(1)
        found = exported(x)
        torch.manual_seed(1)
        wanted = F.dropout(F.dropout(F.relu(theirs(x) + x), 0.5), 0.25) + x
        torch.testing.assert_close(found, F.dropout2d(wanted, 0.25) * 0.75)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(exported.get_buffer(f"norm.{name}"), buffer)


@STRICT
def test_in_place(strict):
    """What is written into the input is what the result is, where the operators are several, too."""

    class InPlace(nn.Module):
        def forward(self, x, r):
            y = x * 1
            z = functional.dropout(y, 0.5, False, inplace=True, residual=r, scaling="test_time")
            return y, z, functional.dropout2d(y * 1, 0.5, False, inplace=True)

    x, r = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    found = torch.export.export(InPlace(), (x, r), strict=strict).module()(x, r)
    for mine, wanted in zip(found, InPlace()(x, r), strict=True):
        torch.testing.assert_close(mine, wanted)


class Calls(nn.Module):
    """Calls a function with options of its own."""

    def __init__(self, function, **options) -> None:
        super().__init__()
        self.function, self.options = function, options

    def forward(self, *tensors: torch.Tensor):
        return self.function(*tensors, **self.options)


@STRICT
def test_functions(strict):
    x, mean, var = torch.randn(4, 3), torch.randn(3), torch.rand(3)
    for function, tensors, options in (
        (functional.batch_norm, (x, mean, var), {"activation": "relu"}),
        (functional.batch_norm, (x, None, None), {"training": True, "residual": x}),
        (functional.dropout, (x,), {"training": False, "scaling": "test_time", "residual": x}),
        (functional.cross_entropy, (x.half(), LABELS), {"label_smoothing": 0.2}),
        (functional.cross_entropy, (x, LABELS.int()), {"z_loss": 0.1, "reduction": "none"}),
        (functional.cross_entropy, (x, LABELS), {"target2": LABELS.flip(0), "lam": 0.3, "weight": mean.abs()}),
    ):
        exported = torch.export.export(Calls(function, **options), tensors, strict=strict)
        assert "onepass" not in str(exported.graph)
        torch.testing.assert_close(exported.module()(*tensors), function(*tensors, **options))
    dropped = Calls(functional.batch_norm, training=True, dropout=0.5)
    exported = torch.export.export(dropped, (x, None, None), strict=strict)
    assert operators(exported)[-1] == "aten.dropout.default"


def sampled(layer: nn.Module) -> nn.Module:
    """A layer as it is within a block of `mc_dropout`."""
    layer._thinned = lambda module: 3
    return nn.Sequential(layer)


REFUSED = [
    (Calls(functional.dropout, seed=3), (), "dropout: seed must be None .*revert"),
    (Calls(functional.dropout, generator=torch.Generator()), (), "dropout: generator must be None .*revert"),
    (Calls(functional.dropout2d, shared=True), ((4, 3, 2, 2),), "dropout2d: shared must be False .*revert"),
    (sampled(onepass.nn.Dropout()), (), "dropout: seed must be None .*revert"),
    (sampled(onepass.nn.BatchNorm1d(3, dropout=0.5).eval()), (), "BatchNorm1d: the module must be outside of mc_"),
    (onepass.nn.BatchNorm1d(3, momentum=None), (), "batch_norm: momentum must be a number in training .*revert"),
    (
        onepass.nn.CrossEntropyLoss(return_stats=True),
        ((4, 3), LABELS),
        "cross_entropy: return_stats must be False",
    ),
    (onepass.nn.CrossEntropyLoss(inplace_backward=True), ((4, 3), LABELS), "inplace_backward must be False under"),
]


@pytest.mark.parametrize(
    ("model", "inputs", "message"), REFUSED, ids=[case[2].split(" must")[0] for case in REFUSED]
)
@STRICT
def test_what_torch_has_no_operator_for_is_refused(model, inputs, message, strict):
    tensors = tuple(one if isinstance(one, torch.Tensor) else torch.randn(one) for one in inputs or ((4, 3),))
    # Dynamo's errors hold ours in their text.
    with pytest.raises(Exception, match=r"(?s)" + message):
        torch.export.export(model, tensors, strict=strict)


@STRICT
def test_a_residual_that_torch_would_broadcast_is_refused(strict):
    with pytest.raises(Exception, match="batch_norm: residual must have input's dtype and shape"):
        torch.export.export(onepass.nn.BatchNorm1d(3), (torch.randn(4, 3), torch.randn(1, 3)), strict=strict)


def test_compile_keeps_our_operators():
    """Before and after an export of the same module."""
    model, x = nn.Sequential(onepass.nn.BatchNorm1d(3), onepass.nn.Dropout()).train(), torch.randn(4, 3)
    for _ in range(2):
        graphs = []

        def look(graph, inputs, graphs=graphs):
            graphs.append(str(graph.graph))
            return graph

        torch.compiler.reset()
        torch.manual_seed(1)
        wanted = copy.deepcopy(model)(x)
        torch.manual_seed(1)
        found = torch.compile(copy.deepcopy(model), backend=look, fullgraph=True)(x)
        assert torch.equal(found, wanted)
        assert "onepass.batch_norm" in graphs[0]
        assert "onepass.dropout" in graphs[0]
        for strict in (True, False):
            assert "onepass" not in str(torch.export.export(copy.deepcopy(model), (x,), strict=strict).graph)


@STRICT
def test_as_with_a_torch_that_has_no_flag_of_exports(strict, monkeypatch):
    """Older ones have none: who is tracing is asked instead. torch.compile keeps our operators there, too."""
    monkeypatch.setattr(exporting, "asked", exporting._Asked())
    monkeypatch.setattr(onepass.nn.batch_norm.modules, "asked", exporting.asked)
    torch.compiler.reset()
    model, x = Network().eval(), torch.randn(4, 3, 5, 5)
    exported = torch.export.export(model, (x,), strict=strict)
    assert "onepass" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(x), model(x))
    graphs = []
    torch.compile(
        model.train(), backend=lambda graph, _: graphs.append(str(graph.graph)) or graph, fullgraph=True
    )(x)
    assert "onepass.batch_norm" in graphs[0]
    assert "onepass.dropout" in graphs[0]


@STRICT
def test_a_container_that_fuses(strict):
    model, x = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout()), torch.randn(4, 3)
    theirs = copy.deepcopy(model)
    onepass.nn.convert(model, fuse_relu=True)
    mine, wanted = (torch.export.export(one, (x,), strict=strict) for one in (model, theirs))
    assert calls(mine) == calls(wanted)

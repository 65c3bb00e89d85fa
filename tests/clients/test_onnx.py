"""ONNX files of both exporters of torch, run by onnxruntime, against our eager calls."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import onepass.nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")
EXPORTER = pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "TorchScript"])
LABELS = torch.tensor([1, 0, -100, 2])


def export(model: nn.Module, inputs: tuple[torch.Tensor, ...], dynamo: bool, **options):
    if dynamo:
        return torch.onnx.export(model, inputs, dynamo=True, verbose=False, optimize=False, **options).model_proto
    file = io.BytesIO()
    torch.onnx.export(model, inputs, file, dynamo=False, **options)
    return onnx.load_from_string(file.getvalue())


def operators(model) -> list[str]:
    """Returns the operators that compute, without those that make weights and shapes."""
    plumbing = ("Constant", "Identity", "Cast", "CastLike", "Shape", "Slice", "Squeeze", "Expand")
    return [node.op_type for node in model.graph.node if node.op_type not in plumbing]


def run(model, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    session = runtime.InferenceSession(model.SerializeToString())
    named = {one.name: value.numpy() for one, value in zip(session.get_inputs(), inputs, strict=True)}
    return torch.from_numpy(session.run(None, named)[0])


def moved(layer: nn.Module) -> nn.Module:
    """Puts a module in evaluation mode, with other running statistics than the initial ones."""
    for name, buffer in layer.named_buffers():
        if name.startswith("running"):
            buffer.uniform_(0.5, 2)
    return layer.eval()


@EXPORTER
@pytest.mark.parametrize(
    ("layer", "shape", "wanted"),
    [
        (onepass.nn.BatchNorm1d(3), (4, 3), ["BatchNormalization"]),
        (onepass.nn.BatchNorm1d(3, eps=1e-2), (4, 3, 5), ["BatchNormalization"]),
        (onepass.nn.BatchNorm2d(3, activation="relu", dropout=0.5), (4, 3, 5, 5), ["BatchNormalization", "Relu"]),
        (onepass.nn.BatchNorm2d(3, affine=False), (4, 3, 5, 5), ["BatchNormalization"]),
        (onepass.nn.BatchNorm3d(3, activation="relu"), (4, 3, 2, 2, 2), ["BatchNormalization", "Relu"]),
        (onepass.nn.Dropout(), (4, 3), []),
        (onepass.nn.Dropout1d(), (4, 3, 5), []),
        (onepass.nn.Dropout2d(), (4, 3, 5, 5), []),
        (onepass.nn.Dropout3d(), (4, 3, 2, 2, 2), []),
        (onepass.nn.AlphaDropout(), (4, 3), []),
        (onepass.nn.FeatureAlphaDropout(), (4, 3, 5), []),
        (onepass.nn.Dropout(0.25, scaling="test_time"), (4, 3), ["Mul"]),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, nn.Module) else "",
)
def test_a_layer_in_evaluation(layer, shape, wanted, dynamo):
    model, x = nn.Sequential(moved(layer)).eval(), torch.randn(shape)
    exported = export(model, (x,), dynamo)
    assert operators(exported) == wanted
    torch.testing.assert_close(run(exported, (x,)), model(x).detach())


@EXPORTER
def test_a_network(dynamo):
    """A batch may have any size; residuals and converted layers are exported, too."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
            self.norm = moved(onepass.nn.BatchNorm2d(4, activation="relu"))

        def forward(self, x):
            y = self.stem(x)
            return self.norm(y, residual=y)

    model = Network()
    onepass.nn.convert(model, fuse_relu=True)
    model.eval()
    dynamic = (
        {"dynamic_shapes": ({0: torch.export.Dim("n")},)}
        if dynamo
        else {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    )
    exported = export(model, (torch.randn(4, 3, 5, 5),), dynamo, **dynamic)
    for batch in (4, 7):
        x = torch.randn(batch, 3, 5, 5)
        torch.testing.assert_close(run(exported, (x,)), model(x).detach())


LOSSES = [
    {},
    {"weight": torch.tensor([0.3, 2.0, 1.0])},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"label_smoothing": 0.2},
    {"label_smoothing": 0.2, "weight": torch.tensor([0.3, 2.0, 1.0])},
    {"label_smoothing": 0.2, "weight": torch.tensor([0.3, 2.0, 1.0]), "reduction": "sum"},
    {"label_smoothing": 0.2, "reduction": "none"},
]


@EXPORTER
@pytest.mark.parametrize("options", LOSSES, ids=lambda options: " ".join(options))
def test_a_loss(options, dynamo):
    """Smoothed losses are exported, too; of torch's, one exporter loses the smoothing, the other refuses."""
    loss = onepass.nn.CrossEntropyLoss(**options)
    for inputs in ((torch.randn(4, 3), LABELS), (torch.randn(4, 3, 2), torch.stack([LABELS, LABELS], 1))):
        exported = export(loss, inputs, dynamo)
        torch.testing.assert_close(run(exported, inputs), loss(*inputs))
        if "label_smoothing" not in options:
            assert operators(exported) == ["SoftmaxCrossEntropyLoss"]
    # Probabilities, which ONNX's loss does not take.
    inputs = (torch.randn(4, 3, 2), torch.rand(4, 3, 2))
    torch.testing.assert_close(run(export(loss, inputs, dynamo), inputs), loss(*inputs))


@EXPORTER
def test_mixed_losses(dynamo):
    class Mixed(nn.Module):
        def forward(self, x, first, second):
            return onepass.nn.functional.cross_entropy(x, first, target2=second, lam=0.3, z_loss=0.1)

    inputs = (torch.randn(4, 3), LABELS, LABELS.flip(0))
    torch.testing.assert_close(run(export(Mixed(), inputs, dynamo), inputs), Mixed()(*inputs))


@EXPORTER
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (onepass.nn.CrossEntropyLoss(return_stats=True), "return_stats must be False under torch.export"),
        (
            onepass.nn.CrossEntropyLoss(z_loss=0.1, label_smoothing=0.1),
            "label_smoothing must be 0 with target2 or z",
        ),
        (onepass.nn.CrossEntropyLoss(inplace_backward=True), "inplace_backward must be False"),
    ],
)
def test_what_cannot_be_exported_is_refused(model, message, dynamo):
    with pytest.raises(Exception, match=r".*") as caught:
        export(model, (torch.randn(4, 3), LABELS), dynamo)
    # The exporter chains its own errors to ours.
    errors, error = [], caught.value
    while error is not None:
        errors.append(str(error))
        error = error.__cause__ or error.__context__
    assert message in "\n".join(errors)


def test_a_drawn_seed_is_refused_in_training():
    class Seeded(nn.Module):
        def forward(self, x):
            return onepass.nn.functional.dropout(x, 0.5, True, seed=3)

    options = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    with pytest.raises(RuntimeError, match=r"dropout: seed must be None .*onepass\.nn\.revert"):
        export(Seeded(), (torch.randn(4, 3),), False, **options)


def test_training_by_the_older_exporter():
    """In training mode the operators are those of torch's layers."""
    options = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    mine, theirs = (
        export(
            nn.Sequential(where.BatchNorm2d(3), nn.ReLU(), where.Dropout(0.3)),
            (torch.randn(4, 3, 2, 2),),
            False,
            **options,
        )
        for where in (onepass.nn, nn)
    )
    assert operators(mine) == operators(theirs) == ["BatchNormalization", "Relu", "Dropout"]

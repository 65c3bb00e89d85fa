"""torchao's tools for exported models, which move them between training and evaluation and quantise them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import onepass.nn

pt2e = pytest.importorskip("torchao.quantization.pt2e")
STRICT = pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])


def network(layers) -> nn.Sequential:
    """Makes a model with p = 0.5 and eps = 1e-5, which torchao's tool writes into all that it moves."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), layers.BatchNorm2d(4), nn.ReLU(), layers.Dropout(0.5), nn.Conv2d(4, 4, 1),
        layers.BatchNorm2d(4),
    )  # fmt: skip


def exported(strict: bool, training: bool) -> tuple[nn.Module, nn.Module]:
    """Makes ours, and torch's with the same weights."""
    torch.manual_seed(0)
    mine, theirs = network(onepass.nn), network(nn)
    theirs.load_state_dict(mine.state_dict())
    x = (torch.randn(8, 3, 5, 5),)
    return tuple(torch.export.export(one.train(training), x, strict=strict).module() for one in (mine, theirs))


@STRICT
@pytest.mark.parametrize("training", [True, False], ids=["from training", "from evaluation"])
def test_moved_between_training_and_evaluation(strict, training):
    """An exported model moves to evaluation and back, with the masks and statistics of torch's modules."""
    models = exported(strict, training)
    x = torch.randn(8, 3, 5, 5)
    for step in range(4):
        found = []
        for model in models:
            torch.manual_seed(step)
            found.append((model(x), model(x)))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
        # Masks are drawn and the batch's statistics used, or neither.
        assert torch.equal(*found[0]) != training
        training = not training
        move = pt2e.move_exported_model_to_train if training else pt2e.move_exported_model_to_eval
        for model in models:
            move(model)


@STRICT
def test_train_and_eval_of_an_exported_model(strict):
    model, _ = exported(strict, True)
    model = pt2e.allow_exported_model_train_eval(model)
    x = torch.randn(8, 3, 5, 5)
    for _ in range(3):
        model(x)
    model.eval()
    wanted = network(nn).eval()
    wanted.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), wanted(x))


@STRICT
def test_what_ours_do_more_is_moved_too(strict):
    """In the graph, ReLU, a residual and dropout of one batch norm are separate operators."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = onepass.nn.BatchNorm2d(3, activation="relu", dropout=0.5)

        def forward(self, x):
            return self.norm(x, residual=x)

    x = torch.randn(8, 3, 5, 5)
    model = torch.export.export(Block().train(), (x,), strict=strict).module()
    model(x)
    pt2e.move_exported_model_to_eval(model)
    block = Block().eval()
    block.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), block(x))


@pytest.mark.parametrize(
    ("strict", "training"),
    [(True, False), (False, False), pytest.param(True, True, marks=pytest.mark.large)],
    ids=["after training, strict", "after training, non-strict", "in training, strict"],
)
def test_quantised(strict, training):
    """The X86 quantiser fuses our convolution, batch norm and ReLU to the same integers as torch's.

    In training, where the export was not strict, it finds batch norms by the names of classes and leaves ours
    between the quantised layers. `onepass.nn.revert` before the export gives it torch's.
    """
    inductor = pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    quantise = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
    found, x = [], torch.randn(8, 3, 5, 5)
    for model in exported(strict, training):
        quantiser = inductor.X86InductorQuantizer()
        quantiser.set_global(inductor.get_default_x86_inductor_quantization_config(is_qat=training))
        prepare = quantise.prepare_qat_pt2e if training else quantise.prepare_pt2e
        prepared = prepare(copy.deepcopy(model), quantiser)
        torch.manual_seed(3)
        prepared(x)
        pt2e.move_exported_model_to_eval(prepared)
        found.append(quantise.convert_pt2e(prepared)(x))
    assert torch.equal(*found)
    assert found[0].unique().numel() > 20


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout", "Dropout1d", "Dropout2d", "Dropout3d"])
def test_what_torchao_does_not_move(name):
    """torchao's tool knows only aten.dropout: other dropouts go on dropping, torch's as ours (docs/export.md)."""
    x = torch.randn(8, 3, *[2] * (int(name[-2]) if name[-1] == "d" else 1))
    for layers in (nn, onepass.nn):
        model = nn.Sequential(nn.Identity(), getattr(layers, name)(0.5))
        moved = torch.export.export(model.train(), (x,)).module()
        pt2e.move_exported_model_to_eval(moved)
        assert not torch.equal(moved(x), x)
        assert torch.equal(torch.export.export(model.eval(), (x,)).module()(x), x)

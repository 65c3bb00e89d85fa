"""Tensors of other kinds in the layers: gradients without memory, meta tensors, what dropout passes on."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import onepass.nn
from onepass.nn.functional import cross_entropy

TARGET = torch.tensor([0, 1, 2, 0])


def dropped(cls, x):
    return cls(0.5)(x, seed=3)


LAYERS = {
    "batch_norm": lambda x: onepass.nn.BatchNorm1d(3, activation="relu")(x),
    "batch_norm evaluating": lambda x: onepass.nn.BatchNorm1d(3).eval()(x),
    "batch_norm all": lambda x: onepass.nn.BatchNorm1d(3, activation="relu")(x, residual=x.sin()),
    "dropout": partial(dropped, onepass.nn.Dropout),
    "alpha_dropout": partial(dropped, onepass.nn.AlphaDropout),
    "feature_alpha_dropout": partial(dropped, onepass.nn.FeatureAlphaDropout),
    "cross_entropy": lambda x: cross_entropy(x, TARGET, label_smoothing=0.1),
    "cross_entropy of rows": lambda x: cross_entropy(x, TARGET, reduction="none"),
    "cross_entropy of probabilities": lambda x: cross_entropy(x, x.detach().softmax(1), reduction="none"),
}
layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
graphs = pytest.mark.parametrize("create_graph", [False, True], ids=["", "create_graph"])


def gradient(layer, make, create_graph) -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(4, 3, requires_grad=True)
    y = layer(x)
    return torch.autograd.grad(y, x, make(y.shape), create_graph=create_graph)[0]


@graphs
@layers
def test_upstream_zeros_without_memory(backend, layer, create_graph):
    """What forward mode and AD formulas give where nothing arrives."""
    if backend.name == "cuda":
        pytest.skip("the layers of this table are on the CPU")
    found = gradient(layer, torch._efficientzerotensor, create_graph)
    assert torch.equal(found, torch.zeros(4, 3))


def few(shape) -> torch.Tensor:
    """A gradient most of which is 0."""
    dense = torch.zeros(shape)
    dense.view(-1)[0] = 2.0
    return dense


@graphs
@layers
def test_sparse_upstream_gradients(layer, create_graph):
    """An embedding whose weights are dropped gives them (torch: dropout's stays sparse, the others raise)."""
    found = gradient(layer, lambda shape: few(shape).to_sparse(), create_graph)
    assert found.layout == torch.strided
    assert torch.equal(found, gradient(layer, few, create_graph))


def test_dropped_weights_of_a_sparse_embedding():
    weight = torch.randn(5, 3, requires_grad=True)
    words = torch.tensor([1, 1, 4])
    grads = []
    for sparse in (False, True):
        dropped = onepass.nn.functional.dropout(weight, 0.5, seed=1)
        nn.functional.embedding(words, dropped, sparse=sparse).square().sum().backward()
        grads.append(weight.grad)
        weight.grad = None
    assert torch.equal(*grads)


KINDS = {
    "int64": lambda x: x.long(),
    "bool": lambda x: x.bool(),
    "uint8": lambda x: x.byte(),
    "complex": lambda x: x.to(torch.complex64),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "sparse": torch.Tensor.to_sparse,
    "mkldnn": torch.Tensor.to_mkldnn,
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]),
    "jagged": lambda x: torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))
DROPOUTS = ["Dropout", "Dropout1d", "AlphaDropout", "FeatureAlphaDropout"]


@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@pytest.mark.parametrize("name", DROPOUTS)
@kinds
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_dropout_passes_on_what_it_does_not_touch(make, name, inplace):
    """Any tensor comes back where nothing is dropped, as with torch; else it is refused."""
    kind = make(torch.ones(2, 3, 4))
    cls = getattr(onepass.nn, name)
    assert cls(0.5, inplace).eval()(kind) is kind
    assert cls(0, inplace)(kind) is kind
    with pytest.raises(TypeError, match=r"input must be (dense|torch\.float32)"):
        cls(0.5, inplace)(kind)


@kinds
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_dropout_that_computes_in_evaluation_refuses_by_name(make):
    """Scaled at test time, and with a residual: there is something to compute."""
    kind = make(torch.ones(2, 3, 4))
    with pytest.raises(TypeError, match=r"^dropout: input must be (dense|torch\.float32)"):
        onepass.nn.Dropout(0.5, scaling="test_time").eval()(kind)
    with pytest.raises(TypeError, match=r"^dropout: (input|residual) must be (dense|torch\.float32)"):
        onepass.nn.Dropout(0.5).eval()(kind, kind)


META = {
    "Dropout": (0.5, (4, 3)),
    "Dropout1d": (0.5, (4, 3, 5)),
    "Dropout2d": (0.5, (4, 3, 5, 2)),
    "Dropout3d": (0.5, (4, 3, 5, 2, 2)),
    "AlphaDropout": (0.5, (4, 3)),
    "FeatureAlphaDropout": (0.5, (4, 3, 2)),
    "BatchNorm1d": (3, (4, 3)),
    "BatchNorm2d": (3, (4, 3, 5, 2)),
    "BatchNorm3d": (3, (4, 3, 5, 2, 2)),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", META)
def test_meta_tensors(name, training):
    """Shapes without numbers, as of torch.device("meta"), forward and backward."""
    argument, shape = META[name]
    found = []
    for where in (nn, onepass.nn):
        module = getattr(where, name)(argument).to("meta").train(training)
        x = torch.empty(shape, device="meta", requires_grad=True)
        y = module(x)
        y.sum().backward()
        found.append(
            [(t.shape, t.dtype, t.stride(), t.device) for t in (y, x.grad, *module.state_dict().values())]
        )
    assert found[0] == found[1]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dense", [False, True], ids=["labels", "probabilities"])
def test_meta_tensors_of_the_loss(dense, reduction):
    x = torch.empty(4, 3, device="meta", requires_grad=True)
    target = torch.empty(4, 3, device="meta") if dense else TARGET.to("meta")
    loss = cross_entropy(x, target, reduction=reduction, label_smoothing=0.1)
    loss.sum().backward()
    assert loss.shape == nn.functional.cross_entropy(x, target, reduction=reduction).shape
    assert x.grad.shape == (4, 3)
    assert x.grad.is_meta

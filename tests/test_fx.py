"""Our layers as torch.fx sees them: leaves that read their training flag when they run, under any tracer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Tracer, symbolic_trace

import onepass.nn
from onepass.nn import functional

LABELS = torch.tensor([1, 0, 2, 1])
# Each layer of ours with torch's, and inputs. Probability 1 makes the flag visible without a seed.
LAYERS = {
    "BatchNorm1d": ((3,), {}, (4, 3)),
    "BatchNorm2d": ((3,), {}, (4, 3, 5, 5)),
    "BatchNorm3d": ((3,), {}, (4, 3, 2, 2, 2)),
    "Dropout": ((1.0,), {}, (4, 3)),
    "Dropout1d": ((1.0,), {}, (4, 3, 5)),
    "Dropout2d": ((1.0,), {}, (4, 3, 5, 5)),
    "Dropout3d": ((1.0,), {}, (4, 3, 2, 2, 2)),
    "AlphaDropout": ((1.0,), {}, (4, 3)),
    "FeatureAlphaDropout": ((1.0,), {}, (4, 3, 5)),
}


class Everything(Tracer):
    """A tracer that takes no module as a leaf."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False


def trace_everything(model: nn.Module) -> GraphModule:
    return GraphModule(model, Everything().trace(model))


def targets(traced: GraphModule) -> list[tuple[str, object]]:
    return [(node.op, node.target) for node in traced.graph.nodes if node.op not in ("placeholder", "output")]


@pytest.mark.parametrize("trace", [symbolic_trace, trace_everything])
@pytest.mark.parametrize("first", [True, False], ids=["traced in training", "traced in evaluation"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_a_leaf_that_follows_the_flag(name, first, trace):
    arguments, options, shape = LAYERS[name]
    layer = getattr(onepass.nn, name)(*arguments, **options)
    theirs = nn.Sequential(nn.Identity(), getattr(nn, name)(*arguments, **options))
    model = nn.Sequential(nn.Identity(), layer).train(first)
    traced = trace(model)
    assert ("call_module", "1") in targets(traced)
    x = torch.randn(shape)
    for training in (not first, first):
        traced.train(training)
        torch.testing.assert_close(traced(x), theirs.train(training)(x))
    for one, other in zip(traced.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other)


class Residual(nn.Module):
    """Layers within layers, one of them used twice, with what ours add to a call."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), onepass.nn.BatchNorm2d(3, activation="relu"))
        self.norm = onepass.nn.BatchNorm2d(3, activation="relu")
        self.drop = onepass.nn.Dropout(0.5)
        self.loss = onepass.nn.CrossEntropyLoss(label_smoothing=0.1)

    # Without annotations: as strings, torch.fx cannot write them to a pickle.
    def forward(self, x, labels):
        y = self.norm(self.norm(self.block(x)), residual=x)
        y = self.drop(y, residual=x, seed=3)
        return self.loss(y.mean((2, 3)), labels, target2=labels.flip(0), lam=0.25)


@pytest.mark.parametrize("trace", [symbolic_trace, trace_everything])
def test_options_of_a_call_and_shared_modules(trace):
    model = Residual()
    traced = trace(model)
    found = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert [name for name in found if name != "block.0"] == ["block.1", "norm", "norm", "drop", "loss"]
    twin, x = copy.deepcopy(model), torch.randn(4, 3, 5, 5)
    for training in (True, False, True):
        assert torch.equal(traced.train(training)(x, LABELS), twin.train(training)(x, LABELS))
    assert traced.norm.num_batches_tracked == twin.norm.num_batches_tracked == 4
    for twinned in (copy.deepcopy(traced), pickle.loads(pickle.dumps(traced)), traced):
        assert torch.equal(twinned.eval()(x, LABELS), twin.eval()(x, LABELS))


def test_a_residual_alone_may_be_traced():
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop = onepass.nn.BatchNorm1d(3), onepass.nn.Dropout()
            self.register_buffer("x", torch.randn(4, 3))

        def forward(self, r: torch.Tensor) -> torch.Tensor:
            kept = torch.ones(4, 3)
            return self.norm(kept, r) + self.drop(kept, r) + functional.dropout(kept, residual=r, training=False)

    model = Adds().eval()
    traced, r = symbolic_trace(model), torch.randn(4, 3)
    assert torch.equal(traced(r), model(r))
    assert [target for op, target in targets(traced) if op == "call_module"] == ["norm", "drop"]


def test_functions_are_nodes():
    def network(x, mean, var, weight, labels):
        y = functional.batch_norm(x, mean, var, weight, training=False, activation="relu", residual=x)
        y = functional.dropout2d(y, 0.5, False)
        y = functional.alpha_dropout(functional.dropout(y, 0.5, True, seed=5))
        y = functional.dropout3d(functional.dropout1d(y.sum(3), 0.1, False)[..., None, None], 0.1, False)
        y = functional.feature_alpha_dropout(y)
        return functional.cross_entropy(y.sum((2, 3, 4)), labels, label_smoothing=0.1)

    traced = symbolic_trace(network)
    calls = [target for op, target in targets(traced) if getattr(target, "__module__", "").startswith("onepass")]
    names = "batch_norm dropout2d dropout alpha_dropout dropout1d dropout3d feature_alpha_dropout cross_entropy"
    assert calls == [getattr(functional, name) for name in names.split()]
    x, labels = torch.randn(4, 3, 5, 5), LABELS
    more = (torch.randn(3), torch.rand(3), torch.randn(3), labels)
    assert torch.equal(traced(x, *more), network(x, *more))
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x, *more), network(x, *more))


def test_a_loss_alone_is_its_function():
    loss = onepass.nn.CrossEntropyLoss(torch.rand(3), label_smoothing=0.1)
    x = torch.randn(4, 3)
    assert torch.equal(symbolic_trace(loss)(x, LABELS), loss(x, LABELS))


class Doubled(onepass.nn.Dropout):
    """A forward that calls ours: as a node it would run again when the node runs."""

    def forward(self, input):
        return 2 * super().forward(input)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: output * 2)
    return layer


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (onepass.nn.BatchNorm2d(3), "BatchNorm2d: under torch.fx the module must be a part of the module"),
        (onepass.nn.Dropout(), "Dropout: under torch.fx the module must be a part of the module"),
        (
            nn.Sequential(Doubled()),
            "Doubled: under torch.fx the module must have no forward of its own, got Doubled",
        ),
        (nn.Sequential(hooked(onepass.nn.BatchNorm1d(3))), "BatchNorm1d: .* must have no hooks"),
        (nn.Sequential(hooked(onepass.nn.AlphaDropout())), "AlphaDropout: .* must have no hooks"),
    ],
)
def test_what_no_node_could_compute_is_refused(model, message):
    with pytest.raises(RuntimeError, match=message + r".*onepass\.nn\.revert"):
        symbolic_trace(model)


def test_a_proxy_without_a_model_is_refused():
    with pytest.raises(RuntimeError, match=r"Dropout: under torch\.fx the module must be a part"):
        onepass.nn.Dropout()(torch.fx.Proxy(torch.fx.Graph().placeholder("x")))


def converted() -> nn.Sequential:
    """A network that fusing tools look for, with ours in the place of torch's."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
    )
    model(torch.randn(16, 3, 8, 8) * 3 + 1)
    onepass.nn.convert(model, fuse_relu=True)
    return model


# torch.utils.mkldnn, which torch's pass imports, is written in TorchScript.
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\..*` is deprecated")
def test_fuse():
    """torch's own pass looks for its exact classes: what it does not know it leaves, and the result is right."""
    from torch.fx.experimental import optimization

    model, x = converted().eval(), torch.randn(2, 3, 8, 8)
    fused = optimization.fuse(model)
    torch.testing.assert_close(fused(x), model(x))
    assert fused(torch.randn(2, 3, 8, 8)).isfinite().all()


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
# torch's own default settings use an option that its observers advise against.
@pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions.*are deprecated:UserWarning")
@pytest.mark.parametrize("training", [True, False])
def test_quantisation_by_graphs(training):
    """fuse_fx, prepare_fx, prepare_qat_fx and convert_fx keep our layers as they are, in float."""
    from torch.ao.quantization import get_default_qat_qconfig_mapping, get_default_qconfig_mapping, quantize_fx

    model, x = converted().eval(), torch.randn(64, 3, 8, 8)
    torch.testing.assert_close(quantize_fx.fuse_fx(model)(x), model(x))
    if training:
        mapping = get_default_qat_qconfig_mapping("x86")
        prepared = quantize_fx.prepare_qat_fx(copy.deepcopy(model).train(), mapping, (x,))
        before = prepared.get_submodule("1").running_mean.clone()
        prepared(x)
        assert not torch.equal(prepared.get_submodule("1").running_mean, before)
        model[1], model[4] = prepared.get_submodule("1"), prepared.get_submodule("4")
        prepared.eval()
        model.eval()
    else:
        prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (x,))
    wanted = model(x)
    prepared(x)
    found = quantize_fx.convert_fx(prepared)(x)
    # 7 bits of each activation; a ReLU or batch norm that is lost or done twice is off by a tenth and more.
    assert (found - wanted).square().mean() < 0.01 * wanted.square().mean()


@pytest.mark.parametrize("training", [True, False])
def test_make_fx_takes_the_flag_as_it_is(training):
    """On the level of tensors the flag is what it was, as with torch's modules: the graph holds our operators."""
    from torch.fx.experimental.proxy_tensor import make_fx

    model = nn.Sequential(onepass.nn.BatchNorm1d(3), onepass.nn.Dropout(1.0)).train(training)
    traced = make_fx(model)(torch.randn(4, 3))
    x = torch.randn(4, 3)
    assert torch.equal(traced(x), copy.deepcopy(model)(x))

"""Tools that look for modules by type or build new ones from a batch norm's weights: no ReLU is lost."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils.checkpoint import checkpoint_sequential

import onepass.nn
from onepass.nn import convert
from tolerance import TOOL_OUTPUTS

X = torch.randn(6, 2, 7, 7, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    """Makes a network after some training, in evaluation; before each ReLU some outputs are negative."""
    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 4, 3),
            norm1=nn.BatchNorm2d(4),
            relu1=nn.ReLU(),
            inner=nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        )
    )
    for _ in range(3):
        model(torch.randn_like(X))
    with torch.no_grad():
        for norm in (model.norm1, model.inner[1]):
            norm.weight.uniform_(0.8, 2.0)
            norm.bias.fill_(-0.1)
    return model.eval()


def sync(model: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def fuse_conv(model: nn.Module) -> nn.Module:
    model.conv1, model.norm1 = fuse_conv_bn_eval(model.conv1, model.norm1), nn.Identity()
    model.inner[0], model.inner[1] = fuse_conv_bn_eval(model.inner[0], model.inner[1]), nn.Identity()
    return model


def fold(model: nn.Module) -> nn.Module:
    model.conv1, model.norm1 = onepass.nn.fold(model.conv1, model.norm1), nn.Identity()
    return model


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model.norm1, "weight", amount=1)
    return model


def pruning_removed(model: nn.Module) -> nn.Module:
    prune.remove(pruned(model).norm1, "weight")
    return model


def weight_norm(model: nn.Module) -> nn.Module:
    parametrizations.weight_norm(model.norm1, "bias", dim=None)
    return model


def other_activation(model: nn.Module) -> nn.Module:
    """Puts another activation in place of each nn.ReLU, as timm's and many other helpers do."""
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(0.1))
    return model


def class_changed(model: nn.Module) -> nn.Module:
    """Changes the class of each nn.ReLU in place, as guided backpropagation does."""
    model.relu1.__class__ = nn.SiLU
    return model


def class_derived(model: nn.Module) -> nn.Module:
    """A ReLU that does more than torch's."""

    class Shifted(nn.ReLU):
        def forward(self, input):
            return super().forward(input) + 1

    model.relu1.__class__ = Shifted
    return model


def without_norm(model: nn.Module) -> nn.Module:
    model.norm1 = nn.Identity()
    return model


def group_norm(model: nn.Module) -> nn.Module:
    model.norm1 = nn.GroupNorm(2, 4)
    return model


def cut(model: nn.Module) -> nn.Module:
    return model[:2]


def rebuilt(model: nn.Module) -> nn.Module:
    return nn.Sequential(*model.children())


def flattened(model: nn.Module) -> nn.Module:
    return nn.Sequential(*(module for module in model.modules() if not isinstance(module, nn.Sequential)))


def segments(model: nn.Module) -> nn.Module:
    class Segments(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint_sequential(model, 2, x, use_reentrant=False)

    return Segments()


def traced(model: nn.Module) -> nn.Module:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, module, name):
            return not isinstance(module, nn.Sequential)

    tracer = Tracer()
    graph = fx.GraphModule(model, tracer.trace(model))
    assert {"relu1", "inner.2"} <= {node.target for node in graph.graph.nodes if node.op == "call_module"}
    return graph


def loaded(model: nn.Module) -> nn.Module:
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    return fresh


TOOLS = [
    sync,
    fuse_conv,
    fold,
    pruned,
    pruning_removed,
    weight_norm,
    other_activation,
    class_changed,
    class_derived,
    without_norm,
    group_norm,
    cut,
    rebuilt,
    flattened,
    segments,
    traced,
    loaded,
]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_what_a_tool_makes_of_a_converted_model(tool):
    """It equals what the tool makes of torch's; a lost or an additional ReLU would change every second number."""
    plain = network()
    model = copy.deepcopy(plain)
    convert(model, fuse_relu=True)
    torch.manual_seed(0)
    expected = tool(plain)(X)
    torch.manual_seed(0)
    found = tool(model)(X)
    torch.testing.assert_close(found, expected, **TOOL_OUTPUTS)
    assert found.square().sum() > 0.1


def test_synchronised_in_training_mode_keeps_the_relu():
    """Batch norm and ReLU, converted to synchronised batch norm, give no negative output for an input of -1."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).eval()
    convert(model, fuse_relu=True)
    made = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert made(-torch.ones(2, 3, 4, 4)).min() == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fuse_modules_refuses_ours_and_takes_what_is_reverted():
    from torch.ao.quantization import fuse_modules

    model = network()
    expected = model(X)
    convert(model, fuse_relu=True)
    names = [["conv1", "norm1", "relu1"]]
    with pytest.raises((AssertionError, NotImplementedError), match=r"fuse.*onepass\.nn"):
        fuse_modules(model, names)
    torch.testing.assert_close(fuse_modules(onepass.nn.revert(model), names)(X), expected, **TOOL_OUTPUTS)


def test_relus_are_found_by_type():
    model = network()
    convert(model, fuse_relu=True)
    assert [name for name, module in model.named_modules() if type(module) is nn.ReLU] == ["relu1", "inner.2"]


@pytest.mark.parametrize(
    "options", [{"activation": "relu"}, {"dropout": 0.5}], ids=lambda options: next(iter(options))
)
def test_by_hand_nothing_is_lost_silently(options):
    """There is no nn.ReLU in the tree that could stay: tools may read the batch norm, but not rebuild it."""
    norm = onepass.nn.BatchNorm2d(4, **options).eval()
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Linear(5, 4), onepass.nn.BatchNorm1d(4, **options)).eval()
    wanted = r"must not have (activation='relu'|dropout=0\.5) to be rebuilt"
    with pytest.raises(RuntimeError, match=f"^convert_sync_batchnorm: a BatchNorm2d {wanted}"):
        sync(model)
    assert model[1] is norm
    if "activation" in options:
        with pytest.raises(RuntimeError, match=f"^fuse_conv_bn_eval: a BatchNorm2d {wanted}"):
            fuse_conv_bn_eval(model[0], model[1])
        with pytest.raises(RuntimeError, match=f"^fuse_linear_bn_eval: a BatchNorm1d {wanted}"):
            fuse_linear_bn_eval(model[2], model[3])
    else:
        # Dropout does nothing in evaluation.
        x = torch.randn(3, 5)
        torch.testing.assert_close(fuse_linear_bn_eval(model[2], model[3])(x), model[3](model[2](x)))
    assert norm.running_mean.shape == (4,)
    assert not hasattr(norm, "running")
    plain = onepass.nn.BatchNorm2d(4, track_running_stats=False, **options)
    assert plain.running_mean is None


def test_compiled_code_reads_statistics():
    """One graph reads them, also from a batch norm that refuses to be rebuilt."""
    norm = onepass.nn.BatchNorm2d(2, activation="relu").eval()

    def read(x):
        return norm(x).sum() + norm.running_mean.sum() + norm.running_var.sum() + norm.weight.sum()

    torch.testing.assert_close(torch.compile(read, fullgraph=True, backend="aot_eager")(X), read(X))

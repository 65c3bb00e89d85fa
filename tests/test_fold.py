"""onepass.nn.fold: one layer against the pair that it replaces."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import onepass.nn
from onepass.nn import fold
from tolerance import FLOAT64

LAYERS = [
    ("linear", lambda: nn.Linear(4, 6), nn.BatchNorm1d, (5, 4)),
    ("linear-no-bias", lambda: nn.Linear(4, 6, bias=False), nn.BatchNorm1d, (5, 4)),
    ("conv1d", lambda: nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d, (2, 4, 9)),
    ("conv2d-groups", lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2, bias=False), nn.BatchNorm2d, (2, 4, 7, 7)),
    (
        "conv2d-circular",
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d,
        (2, 4, 7, 7),
    ),
    ("conv2d-depthwise", lambda: nn.Conv2d(6, 6, 3, groups=6, dilation=2), nn.BatchNorm2d, (2, 6, 7, 7)),
    ("conv3d", lambda: nn.Conv3d(4, 6, 2), nn.BatchNorm3d, (2, 4, 3, 4, 3)),
    ("transpose1d", lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d, (2, 4, 5)),
    ("transpose2d", lambda: nn.ConvTranspose2d(4, 6, 3, bias=False), nn.BatchNorm2d, (2, 4, 5, 5)),
    ("transpose2d-groups", lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d, (2, 4, 5, 5)),
    ("transpose3d", lambda: nn.ConvTranspose3d(4, 6, 2), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
]


def evaluated(kind, **options) -> nn.Module:
    """A batch norm with statistics and parameters that all matter, in evaluation mode."""
    norm = kind(6, eps=0.01, **options).eval()
    with torch.no_grad():
        for value in (*norm.parameters(), *norm.buffers()):
            if value.is_floating_point():
                value.uniform_(0.5, 2.0)
    return norm


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}], ids=["affine", "plain", "no-bias"])
@pytest.mark.parametrize(("name", "make", "kind", "shape"), LAYERS, ids=[entry[0] for entry in LAYERS])
def test_one_layer_does_what_the_pair_did(name, make, kind, shape, options):
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    for norm in (
        evaluated(kind, **options).double(),
        evaluated(getattr(onepass.nn, kind.__name__), **options).double(),
    ):
        before = copy.deepcopy((layer, norm))
        folded = fold(layer, norm)
        assert type(folded) is type(layer)
        torch.testing.assert_close(folded(x), norm(layer(x)), **FLOAT64)
        for part, copied in zip((layer, norm), before, strict=True):
            for key, value in part.state_dict().items():
                assert torch.equal(value, copied.state_dict()[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parameters_are_rounded_once(dtype):
    """To the layer's dtype, from float64: torch's function computes in the layer's dtype."""
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(4, 6, 3).to(dtype), evaluated(nn.BatchNorm2d)
    folded = fold(layer, norm)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = (layer.weight.double() * scale.view(-1, 1, 1, 1)).to(dtype)
    bias = ((layer.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()).to(dtype)
    assert torch.equal(folded.weight, weight)
    assert torch.equal(folded.bias, bias)
    assert folded.weight.dtype == folded.bias.dtype == dtype


def test_activation_follows_as_a_module():
    norm = evaluated(onepass.nn.BatchNorm1d, activation="relu", dropout=0.5)
    layer = nn.Linear(4, 6)
    folded = fold(layer, norm)
    assert [type(part) for part in folded] == [nn.Linear, nn.ReLU]
    x = torch.randn(9, 4)
    torch.testing.assert_close(folded(x), norm(layer(x)))


def test_frozen_stays_frozen():
    layer = nn.Linear(4, 6, bias=False).requires_grad_(False)
    folded = fold(layer, evaluated(nn.BatchNorm1d))
    assert [param.requires_grad for param in folded.parameters()] == [False, False]


@pytest.mark.parametrize(
    ("layer", "norm", "error", "message"),
    [
        (nn.Linear(4, 6), nn.LayerNorm(6), TypeError, "batch_norm must be torch's BatchNorm1d, 2d or 3d, or ours"),
        (nn.Linear(4, 6), nn.SyncBatchNorm(6), TypeError, "got SyncBatchNorm"),
        (
            nn.Conv1d(4, 6, 3),
            nn.BatchNorm2d(6),
            TypeError,
            "layer must be one of Conv2d, ConvTranspose2d before Bat",
        ),
        (nn.LazyLinear(6), nn.BatchNorm1d(6), TypeError, "got LazyLinear"),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), ValueError, "must be in evaluation mode, got training mode"),
        (
            nn.Linear(4, 6),
            nn.BatchNorm1d(6, track_running_stats=False).eval(),
            ValueError,
            "must have running statistics, got none",
        ),
        (
            nn.Linear(4, 6),
            nn.BatchNorm1d(5).eval(),
            ValueError,
            "must have 6 channels like the layer's output, got 5",
        ),
    ],
    ids=["norm", "sync", "dimensions", "lazy", "training", "untracked", "channels"],
)
def test_what_cannot_be_folded(layer, norm, error, message):
    with pytest.raises(error, match=f"fold: .*{message}"):
        fold(layer, norm)


def own_forward(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda input: forward(input) + 1


def other_weight(module: nn.Module) -> None:
    """Gives the module a weight that is no parameter, as hypernetworks do."""
    weight = module.weight.detach() * 2
    del module.weight
    module.weight = weight


def hook_of(name: str):
    return lambda module: getattr(module, name)(lambda *args: None)


ALTERATIONS = {
    "forward hooks": hook_of("register_forward_hook"),
    "forward pre-hooks": hook_of("register_forward_pre_hook"),
    "backward hooks": hook_of("register_full_backward_hook"),
    "backward pre-hooks": hook_of("register_full_backward_pre_hook"),
    "a forward of its own": own_forward,
    "a weight that is not its own parameter": other_weight,
    "parametrizations of weight": lambda module: parametrizations.weight_norm(module, dim=None),
    "parametrizations of bias": lambda module: nn.utils.parametrize.register_parametrization(
        module, "bias", nn.Identity()
    ),
    "weight_norm": lambda module: weight_norm(module, dim=None),
    "pruning": lambda module: prune.random_unstructured(module, "weight", amount=1),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("which", ["layer", "batch_norm"])
@pytest.mark.parametrize("altered", ALTERATIONS)
def test_what_computes_something_else_is_refused(altered, which):
    """By name, for each layer and batch norm, torch's and ours, and nothing has been changed."""
    for _, make, kind, _ in LAYERS:
        for norm in (evaluated(kind), evaluated(getattr(onepass.nn, kind.__name__))):
            layer = make()
            module = layer if which == "layer" else norm
            if altered.endswith("bias") and module.bias is None:
                continue
            ALTERATIONS[altered](module)
            before = copy.deepcopy(module.state_dict())
            with pytest.raises(ValueError, match=f"fold: {which} must compute what .* with {altered}"):
                fold(layer, norm)
            assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
def test_spectral_norms_are_refused():
    for normed, words in (
        (spectral_norm(nn.Conv2d(4, 6, 3)), "spectral_norm"),
        (parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)), "parametrizations of weight"),
        (parametrizations.orthogonal(nn.Linear(6, 6)), "parametrizations of weight"),
    ):
        kind = nn.BatchNorm1d if isinstance(normed, nn.Linear) else nn.BatchNorm2d
        with pytest.raises(ValueError, match=f"fold: layer must compute what .* with {words}"):
            fold(normed, evaluated(kind))


def test_a_pruned_layer_can_be_folded_once_it_is_plain_again():
    layer, norm = nn.Linear(4, 6), evaluated(nn.BatchNorm1d)
    prune.remove(prune.l1_unstructured(layer, "weight", amount=5), "weight")
    x = torch.randn(3, 4)
    torch.testing.assert_close(fold(layer, norm)(x), norm(layer(x)))


def test_within_monte_carlo_dropout():
    norm = evaluated(onepass.nn.BatchNorm1d, dropout=0.5)
    with onepass.nn.mc_dropout(norm), pytest.raises(RuntimeError, match="fold: batch_norm must not be within"):
        fold(nn.Linear(4, 6), norm)


@pytest.mark.parametrize("which", ["layer", "batch_norm"])
def test_tensors_on_two_devices_are_refused(which):
    layer, norm = nn.Linear(4, 3), nn.BatchNorm1d(3).eval()
    (layer if which == "layer" else norm).to("meta")
    with pytest.raises(ValueError, match=r"batch_norm\.weight must be on (cpu|meta) like layer\.weight, got"):
        fold(layer, norm)
    assert fold(layer.to("meta"), norm.to("meta")).weight.is_meta

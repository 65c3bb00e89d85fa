"""convert_sync_batchnorm: what stays, what is refused, and the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import onepass.nn
from onepass.nn import SyncBatchNorm, convert, convert_sync_batchnorm, revert

KINDS = {
    "torch-1d": lambda: nn.BatchNorm1d(4, eps=1e-3, momentum=None),
    "torch-2d": lambda: nn.BatchNorm2d(4, affine=False),
    "torch-3d": lambda: nn.BatchNorm3d(4, track_running_stats=False),
    "torch-sync": lambda: nn.SyncBatchNorm(4),
    "ours-1d": lambda: onepass.nn.BatchNorm1d(4, activation="relu"),
    "ours-2d": lambda: onepass.nn.BatchNorm2d(4, dropout=0.25),
    "ours-3d": lambda: onepass.nn.BatchNorm3d(4, bias=False),
    "ours-sync": lambda: SyncBatchNorm(4, activation="relu"),
}
SHAPES = {"1d": (5, 4), "2d": (5, 4, 3, 2), "3d": (5, 4, 3, 2, 2), "sync": (5, 4, 3)}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_stays(kind):
    norm = KINDS[kind]()
    model = nn.Sequential(nn.Identity(), norm)
    seen = []
    norm.register_forward_hook(lambda module, *_: seen.append(module))
    attributes, tensors = dict(norm.__dict__), list(norm.state_dict().items())
    x = torch.randn(SHAPES[kind.rsplit("-")[1]], generator=torch.Generator().manual_seed(0))
    twin = copy.deepcopy(norm)
    assert convert_sync_batchnorm(model) is model
    assert model[1] is norm
    assert type(norm) is SyncBatchNorm
    assert norm._layer == "1"
    for name, value in attributes.items():
        assert norm.__dict__[name] is value or name == "process_group"
    for (name, value), (other, kept) in zip(norm.state_dict().items(), tensors, strict=True):
        assert name == other
        assert torch.equal(value, kept)
    # One rank: the batch norm that it was, dropout's seed included.
    torch.manual_seed(1)
    y = norm(x)
    torch.manual_seed(1)
    torch.testing.assert_close(y, twin(x))
    assert seen[0] is norm


def test_activation_and_dropout_stay():
    norm = convert_sync_batchnorm(onepass.nn.BatchNorm2d(4, activation="relu", dropout=0.5))
    assert (norm.activation, norm.dropout) == ("relu", 0.5)
    assert norm(torch.randn(5, 4, 2, 2), residual=torch.ones(5, 4, 2, 2)).min() == 0
    assert repr(norm).endswith("activation=relu, dropout=0.5)")


def test_a_fused_relu_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    convert(model, fuse_relu=True)
    convert_sync_batchnorm(model)
    assert onepass.nn.sequential.pairs_of(model) == [("1", "2")]
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(model(x), nn.Sequential(*model.children())(x))


class Own(nn.BatchNorm2d):
    pass


def with_forward() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    norm.forward = lambda x: x
    return norm


def with_attribute() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    norm.activation = nn.ReLU()
    return norm


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: Own(3),
            TypeError,
            "1 must be exactly torch's or our .* or SyncBatchNorm, got Own",
        ),
        (nn.LazyBatchNorm1d, TypeError, "got LazyBatchNorm1d"),
        (with_forward, ValueError, "1 must have no forward of its own, got one"),
        (
            with_attribute,
            ValueError,
            "1 must have no attribute activation, .*, got one",
        ),
    ],
    ids=["subclass", "lazy", "forward", "attribute"],
)
def test_refused_before_anything_has_changed(make, kind, message):
    model = nn.Sequential(nn.BatchNorm1d(3), make())
    with pytest.raises(kind, match=message):
        convert_sync_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm1d


def test_arguments():
    with pytest.raises(TypeError, match=r"convert_sync_batchnorm: model must be a torch\.nn\.Module, got 3"):
        convert_sync_batchnorm(3)
    with pytest.raises(TypeError, match=r"process_group must be a .*ProcessGroup or None, got str"):
        convert_sync_batchnorm(nn.BatchNorm1d(3), "gloo")
    with pytest.raises(TypeError, match=r"process_group must be a .*ProcessGroup or None, got str"):
        SyncBatchNorm(3, process_group="gloo")


def test_reverts_to_torchs():
    model = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(3)))
    assert type(revert(model)[0]) is nn.SyncBatchNorm
    assert "_layer" not in model[0].__dict__
    assert model[0].process_group is None
    with pytest.raises(ValueError, match=r"activation of 0 .SyncBatchNorm. must be None"):
        revert(nn.Sequential(SyncBatchNorm(3, activation="relu")))


def test_state_dicts_are_torchs():
    ours, theirs = SyncBatchNorm(3), nn.SyncBatchNorm(3)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert copy.deepcopy(ours)(torch.randn(4, 3)).shape == (4, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_one_rank_exports_and_scripts():
    norm = SyncBatchNorm(3).eval()
    x = torch.randn(4, 3)
    expected = norm(x)
    torch.testing.assert_close(torch.export.export(norm, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.script(norm)(x), expected)

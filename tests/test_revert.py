"""onepass.nn.revert: torch's own modules back, without what convert returned."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import onepass.nn
from onepass.nn import convert, revert
from onepass.nn import dropout as dropouts
from onepass.nn.batch_norm import OURS


class Block(nn.Sequential):
    """A subclass that runs its modules as torch's does."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.width = width


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
        nn.ReLU(),
        nn.Dropout2d(0.3, inplace=True),
        Block(4),
        nn.Flatten(),
        nn.Linear(4 * 16, 6),
        nn.BatchNorm1d(6, affine=False),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.AlphaDropout(0.1),
        nn.ModuleDict({"loss": nn.CrossEntropyLoss(label_smoothing=0.1), "norm": nn.BatchNorm3d(2)}),
    )


def saved(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved],
    ids=["itself", "deepcopy", "pickle", "torch.load"],
)
@pytest.mark.parametrize("fuse_relu", [False, True], ids=["", "fuse_relu"])
def test_everything_is_torchs_again(fuse_relu, copied):
    """Classes, names, options, and the numbers to come."""
    plain = network()
    model = copy.deepcopy(plain)
    convert(model, fuse_relu=fuse_relu)
    x = torch.randn(5, 1, 8, 8)
    for index in range(11):
        x = model[index](x)
    model = copied(model)
    kept = [*model.parameters(), *model.buffers()]
    assert revert(model) is model
    assert all(a is b for a, b in zip([*model.parameters(), *model.buffers()], kept, strict=True))
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    assert [vars(a).keys() for a in model.modules()] == [vars(b).keys() for b in plain.modules()]
    assert str(model) == str(plain)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(5, 1, 8, 8)
    for one, other in zip(model[:11], plain[:11], strict=True):
        torch.manual_seed(1)
        expected = other(x.clone())
        torch.manual_seed(1)
        assert torch.equal(one(x.clone()), expected)
        x = expected.detach()


def test_hooks_flags_and_references_stay():
    model = network()
    norm, seen = model[1].eval(), []
    norm.register_forward_hook(lambda *args: seen.append(1))
    norm.note = "mine"
    convert(model, fuse_relu=True)
    revert(model)
    assert model[1] is norm
    assert (norm.training, norm.note, model[4].width) == (False, "mine", 4)
    norm(torch.randn(2, 4, 3, 3))
    assert seen == [1]


# A module of each class that torch's class of the same name can stand in for, and what it becomes.
PLAIN = [
    *((ours(3), torchs) for torchs, ours in OURS.items()),
    *((ours(0.3), torchs) for torchs, ours in dropouts.OURS.items()),
    (onepass.nn.CrossEntropyLoss(torch.ones(3), reduction="sum", inplace_backward=True), nn.CrossEntropyLoss),
    (onepass.nn.Sequential(nn.Linear(3, 3)), nn.Sequential),
]


@pytest.mark.parametrize(("module", "kind"), PLAIN, ids=lambda one: getattr(one, "__name__", ""))
def test_every_class(module, kind):
    """Modules made by hand and the model itself come back, too; each stays an instance of torch's class."""
    assert isinstance(module, kind)
    assert type(module).__name__ == kind.__name__
    module = copy.deepcopy(module)
    assert type(revert(module)) is kind
    made = {"CrossEntropyLoss": (), "Sequential": ()}.get(kind.__name__, (3 if "Norm" in kind.__name__ else 0.3,))
    assert vars(module).keys() == vars(kind(*made)).keys()


class Derived(onepass.nn.BatchNorm2d):
    pass


class DerivedSequential(onepass.nn.Sequential):
    pass


def parametrized() -> nn.Module:
    return parametrizations.weight_norm(onepass.nn.BatchNorm2d(3), dim=None)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            onepass.nn.BatchNorm2d(3, activation="relu"),
            r"activation of norm\.0 \(BatchNorm2d\) must be None, .* got 'relu'; set it to None",
        ),
        (
            onepass.nn.BatchNorm1d(3, dropout=0.5),
            r"dropout of norm\.0 \(BatchNorm1d\) must be 0, .*got 0\.5",
        ),
        (
            onepass.nn.Dropout(scaling="test_time"),
            r"scaling of norm\.0 \(Dropout\) must be 'inverted', .*got",
        ),
        (onepass.nn.Dropout3d(scaling="test_time"), r"scaling of norm\.0 \(Dropout3d\) must be 'inverted'"),
        (
            onepass.nn.CrossEntropyLoss(z_loss=0.1),
            r"z_loss of norm\.0 \(CrossEntropyLoss\) must be 0, .*0\.1",
        ),
        (
            onepass.nn.CrossEntropyLoss(return_stats=True),
            r"return_stats of norm\.0 \(Cross.* must be False",
        ),
        (
            Derived(3),
            r"norm\.0 \(Derived\) must be exactly .*, got one of a class derived",
        ),
        (DerivedSequential(), r"norm\.0 \(DerivedSequential\) must be exactly a module of onepass"),
        (parametrized(), r"norm\.0 \(ParametrizedBatchNorm2d\) must be exactly .* with parametrizations"),
    ],
    ids=["relu", "dropout", "scaling", "scaling3d", "z_loss", "stats", "derived", "container", "parametrized"],
)
def test_what_torchs_class_cannot_do_is_refused(module, message):
    """By name, before anything is changed; also by the conversion that has changed the module before."""
    model = nn.ModuleDict({"first": nn.BatchNorm1d(2), "norm": nn.Sequential(module), "last": nn.Dropout()})
    conversion = convert(model)
    kinds = [type(one) for one in model.modules()]
    with pytest.raises(ValueError, match=f"^revert: {message}"):
        revert(model)
    assert [type(one) for one in model.modules()] == kinds
    assert model.last.scaling == "inverted"
    conversion.revert()
    assert type(model.first) is nn.BatchNorm1d
    assert type(model.norm[0]) is kinds[3]


def test_options_set_after_the_conversion():
    """Nothing that the user has set is dropped silently."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    conversion = convert(model)
    model[1].scaling = "test_time"
    for way in (conversion.revert, lambda: revert(model)):
        with pytest.raises(ValueError, match=r"revert: scaling of 1 \(Dropout\)"):
            way()
    assert type(model[0]) is onepass.nn.BatchNorm1d
    model[1].scaling = "inverted"
    conversion.revert()
    assert "scaling" not in vars(model[1])


def test_parametrized_after_the_conversion():
    """Its class is torch's parametrized one, which the conversion must not overwrite."""
    model = nn.Sequential(nn.BatchNorm1d(3))
    conversion = convert(model)
    parametrizations.weight_norm(model[0], dim=None)
    with pytest.raises(ValueError, match=r"revert: 0 \(ParametrizedBatchNorm1d\)"):
        conversion.revert()
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    conversion.revert()
    assert type(model[0]) is nn.BatchNorm1d


def test_both_ways_back():
    model = network()
    conversion = convert(model, fuse_relu=True)
    revert(model)
    conversion.revert()
    assert type(model[4]) is Block
    with pytest.raises(RuntimeError, match="revert: the conversion must not have been reverted before"):
        conversion.revert()
    assert str(revert(model)) == str(network())


def test_the_model_itself_is_named_so():
    with pytest.raises(ValueError, match=r"revert: activation of the model itself \(BatchNorm1d\)"):
        revert(onepass.nn.BatchNorm1d(3, activation="relu"))


def test_within_monte_carlo_dropout():
    model = nn.Sequential(onepass.nn.Dropout(), nn.BatchNorm1d(2))
    convert(model)
    with (
        onepass.nn.mc_dropout(model),
        pytest.raises(RuntimeError, match=r"revert: 0 \(Dropout\) must"),
    ):
        revert(model)
    assert type(revert(model)[0]) is nn.Dropout

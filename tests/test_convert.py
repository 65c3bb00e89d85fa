"""onepass.nn.convert: what it replaces, what it leaves alone, and back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import onepass.nn
from onepass.nn import convert
from tolerance import NORM_GRADIENTS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 6),
        nn.BatchNorm1d(6, affine=False),
        nn.ReLU(),
    )


def train(model: nn.Module, steps: int = 3) -> list[torch.Tensor]:
    """Losses and gradients of some steps, then the output in evaluation."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(steps):
        model.zero_grad()
        loss = model(torch.randn(5, 1, 8, 8, generator=generator)).square().sum()
        loss.backward()
        found += [loss.detach(), *(param.grad.clone() for param in model.parameters())]
    model.eval()
    found.append(model(torch.randn(5, 1, 8, 8, generator=generator)).detach())
    model.train()
    return found


@pytest.mark.parametrize("fuse_relu", [False, True])
def test_a_converted_model_trains_as_before(fuse_relu):
    plain = network()
    model = copy.deepcopy(plain)
    result = convert(model, fuse_relu=fuse_relu)
    kinds = [type(module) for module in model]
    assert kinds[1] is kinds[4] is onepass.nn.BatchNorm2d
    assert kinds[7] is onepass.nn.BatchNorm1d
    assert kinds[2] is kinds[8] is nn.ReLU
    assert type(model) is (onepass.nn.Sequential if fuse_relu else nn.Sequential)
    assert [entry.outcome for entry in result.table if entry.kind == "ReLU"] == ["taken over"] * 2 * fuse_relu
    for mine, theirs in zip(train(model), train(plain), strict=True):
        torch.testing.assert_close(mine, theirs, **NORM_GRADIENTS)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_everything_of_a_module_is_kept():
    """Its identity, so that optimizers and hooks still have the right one; training flags, attributes."""
    model = network()
    norm = model[1].eval()
    calls = []
    norm.register_forward_hook(lambda module, args, output: calls.append(module))
    norm.note = "mine"
    before = {name: id(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
    state = copy.deepcopy(model.state_dict())
    convert(model)
    assert model[1] is norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.training, norm.note, model[4].training) == (False, "mine", True)
    assert {name: id(value) for name, value in (*model.named_parameters(), *model.named_buffers())} == before
    assert model.state_dict().keys() == state.keys()
    model(torch.randn(2, 1, 8, 8))
    assert calls == [norm]


def test_revert():
    model = network()
    plain = copy.deepcopy(model)
    result = convert(model, fuse_relu=True)
    train(model)
    model[1].dropout = 0.5
    with pytest.raises(ValueError, match=r"revert: dropout of 1 \(BatchNorm2d\) must be 0, .*got 0\.5"):
        result.revert()
    assert type(model) is onepass.nn.Sequential
    model[1].dropout = 0.0
    result.revert()
    assert str(model) == str(plain)
    assert [vars(a).keys() for a in model] == [vars(b).keys() for b in plain]
    plain.load_state_dict(model.state_dict())
    for mine, theirs in zip(train(model), train(plain), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(RuntimeError, match="revert: the conversion must not have been reverted before"):
        result.revert()


def test_the_model_may_be_a_batch_norm_itself():
    module = nn.BatchNorm3d(2)
    result = convert(module)
    assert type(module) is onepass.nn.BatchNorm3d
    assert [entry[:3] for entry in result.table] == [("", "BatchNorm3d", "replaced")]


def test_what_is_left_alone():
    class Mine(nn.BatchNorm2d):
        def forward(self, input):
            return -super().forward(input)

    patched = nn.BatchNorm2d(3)
    patched.forward = lambda input: input
    model = nn.ModuleDict(
        {
            "sync": nn.SyncBatchNorm(3),
            "subclass": Mine(3),
            "lazy": nn.LazyBatchNorm2d(),
            "patched": patched,
            "ours": onepass.nn.BatchNorm2d(3),
            "instance": nn.InstanceNorm2d(3),
            "group": nn.GroupNorm(3, 3),
        }
    )
    kinds = {name: type(module) for name, module in model.items()}
    result = convert(model, fuse_relu=True)
    assert {name: type(module) for name, module in model.items()} == kinds
    assert {entry.name: entry.note for entry in result.table} == {
        "sync": "is not exactly torch's BatchNorm1d, BatchNorm2d, BatchNorm3d",
        "subclass": "is not exactly torch's BatchNorm1d, BatchNorm2d, BatchNorm3d",
        "lazy": "is not exactly torch's BatchNorm1d, BatchNorm2d, BatchNorm3d",
        "patched": "has a forward of its own",
        "ours": "is of onepass already",
    }
    assert all(entry.outcome == "left" for entry in result.table)
    result.revert()


def test_the_table_as_text():
    assert str(convert(nn.Linear(2, 2))) == "no norm or dropout"
    text = str(convert(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(), nn.SyncBatchNorm(2)), fuse_relu=True))
    assert text.splitlines() == [
        "the model itself  Sequential     replaced",
        "0                 BatchNorm1d    replaced, with ReLU",
        "1                 ReLU           taken over",
        "2                 SyncBatchNorm  left                 "
        "is not exactly torch's BatchNorm1d, BatchNorm2d, BatchNorm3d",
    ]


def hooked(which: int) -> nn.Module:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU())
    model[which].register_forward_hook(lambda module, args, output: None)
    return model


class Skips(nn.Sequential):
    def forward(self, input):
        return self[0](input)


class Reversed(nn.Sequential):
    def __iter__(self):
        return reversed(self._modules.values())


class Subclassed(nn.Sequential):
    """Runs its children in turn, as nn.Sequential does: torchvision's ConvNormActivation is such a one."""


class Final(nn.Sequential):
    def __init_subclass__(cls, **kwargs):
        raise TypeError("it must not be")


@pytest.mark.parametrize(
    ("model", "note"),
    [
        (
            Final(nn.BatchNorm1d(2), nn.ReLU()),
            "no ReLU: no class can be derived from its container's Final (it must not be)",
        ),
        (
            torch.ao.nn.intrinsic.BNReLU2d(nn.BatchNorm2d(2), nn.ReLU()),
            "no ReLU: its container is a BNReLU2d of torch's own",
        ),
        (hooked(0), "no ReLU: it has hooks"),
        (hooked(1), "no ReLU: its ReLU has hooks"),
        (Skips(nn.BatchNorm1d(2), nn.ReLU()), ""),
        (Reversed(nn.BatchNorm1d(2), nn.ReLU()), ""),
        (nn.ModuleList([nn.BatchNorm1d(2), nn.ReLU()]), ""),
        (nn.Sequential(nn.BatchNorm1d(2), nn.Identity(), nn.ReLU()), ""),
        (nn.Sequential(nn.BatchNorm1d(2), nn.ReLU6()), ""),
    ],
    ids=["final", "torchs", "hook", "hook-of-relu", "own-forward", "own-order", "list", "between", "relu6"],
)
def test_relu_stays_where_the_modules_do_not_prove_it(model, note):
    result = convert(model, fuse_relu=True)
    assert {entry.outcome for entry in result.table} == {"replaced"}
    assert {entry.note for entry in result.table} == {note}
    assert not any(isinstance(module, onepass.nn.Sequential) for module in model.modules())


def test_relu_is_taken_over_in_a_subclass_that_only_names_a_sequential():
    model = Subclassed(nn.BatchNorm1d(2), nn.ReLU())
    result = convert(model, fuse_relu=True)
    assert [entry.outcome for entry in result.table] == ["replaced", "replaced, with ReLU", "taken over"]
    assert isinstance(model, Subclassed)
    assert isinstance(model, onepass.nn.Sequential)
    assert (model(torch.randn(8, 2)) >= 0).all()


def test_compiled_and_copied_after_conversion():
    model = network()
    convert(model, fuse_relu=True)
    other = copy.deepcopy(model)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(torch.compile(model, backend="aot_eager")(x), other(x))


def test_attributes_with_the_names_of_options_are_left_alone():
    """They would become options, and revert would delete them."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Dropout(), nn.BatchNorm1d(3), nn.ReLU())
    model[0].dropout = 0.5
    model[1].activation = nn.Tanh()
    model[2].scaling = 2
    model[3].scaling = 3
    model[4].activation = "mine"
    result = onepass.nn.convert(model, fuse_relu=True)
    expected = ["replaced", *["left"] * 3, "replaced, with ReLU", "taken over"]
    assert [entry.outcome for entry in result.table] == expected
    notes = [f"has an attribute of the name of our option {name}" for name in ("dropout", "activation", "scaling")]
    assert [entry.note for entry in result.table[1:4]] == notes
    result.revert()
    assert [model[0].dropout, *(model[n].scaling for n in (2, 3)), model[4].activation] == [0.5, 2, 3, "mine"]
    assert type(model[3]) is nn.BatchNorm1d

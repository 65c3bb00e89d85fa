"""fuse: what it finds in forward code, that results are as before, and the way back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import onepass
from fuse_models import Functional, Generator, Mlp, Residual, UNet, assert_parity_by_norm, results
from onepass.nn import fuse
from tolerance import assert_parity

MODELS = {
    "residual": (Residual, (4, 8, 6, 6)),
    "shortcut": (lambda: Residual(shortcut=True), (4, 8, 6, 6)),
    "functional": (Functional, (4, 8, 6, 6)),
    "unet": (UNet, (2, 1, 8, 8)),
    "generator": (Generator, (4, 6)),
    "mlp": (Mlp, (32, 16)),
}
each_model = pytest.mark.parametrize("name", MODELS)


def made(name, seed=0):
    torch.manual_seed(seed)
    make, shape = MODELS[name]
    return make(), torch.randn(shape)


def outcomes(fusion):
    return {place.name: place.outcome for place in fusion.table}


@each_model
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_step_is_as_accurate_as_torchs(name, layout):
    """Output, gradients and running statistics of training, and evaluation after it, by the rule of parity."""
    model, x = made(name)
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    exact = results(copy.deepcopy(model).double(), x.double())
    ours = copy.deepcopy(model)
    keys = list(ours.state_dict())
    fusion = fuse(ours, x)
    assert all(place.outcome.startswith("fused") for place in fusion.table if "shortcut" not in place.name)
    assert list(ours.state_dict()) == keys
    got, theirs = results(ours, x), results(model, x)
    # What went through several layers is judged by the norm of each kind of result: an element of a sum that
    # nearly cancels breaks the rule by luck, for instance with another number of threads.
    if name in ("unet", "shortcut"):
        assert_parity_by_norm(len(list(ours.parameters())), got, theirs, exact)
        return
    for i, values in enumerate(zip(got, theirs, exact, strict=True)):
        assert_parity(*values, what=f"result {i}")


@each_model
def test_revert_gives_the_model_back(name):
    model, x = made(name)
    ours = copy.deepcopy(model)
    kinds = [type(one) for one in ours.modules()]
    kept = [id(one) for one in (*ours.modules(), *ours.parameters(), *ours.buffers())]
    fusion = fuse(ours)
    assert [type(one) for one in ours.modules()] != kinds
    fusion.revert()
    assert [type(one) for one in ours.modules()] == kinds
    assert [id(one) for one in (*ours.modules(), *ours.parameters(), *ours.buffers())] == kept
    assert str(ours) == str(model)
    assert all(map(torch.equal, results(ours, x), results(model, x)))
    with pytest.raises(RuntimeError, match=r"^revert: the fusion must not have been reverted before"):
        fusion.revert()


@each_model
def test_copies_and_pickles(name):
    import pickle

    model, x = made(name)
    fuse(model)
    expected = results(copy.deepcopy(model), x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(one) for one in other.modules()] == [type(one) for one in model.modules()]
        assert all(map(torch.equal, results(other, x), expected))
        onepass.nn.revert(other)
        assert not any("onepass" in type(one).__module__ for one in other.modules())
        assert [type(one) for one in other.modules()] == [type(one) for one in made(name)[0].modules()]


def test_what_print_shows():
    fusion = fuse(nn.Sequential(Residual(shortcut=True), Residual(dropout=0.5), nn.BatchNorm2d(8), nn.SiLU()))
    assert str(fusion).splitlines() == [
        "0.bn1         BatchNorm2d  fused with ReLU                in 0 (Residual)",
        "0.bn2         BatchNorm2d  fused with add, ReLU, dropout  in 0 (Residual)",
        "0.shortcut.1  BatchNorm2d  left                           0.shortcut (Sequential): its result is what "
        "the forward returns",
        "1.bn1         BatchNorm2d  fused with ReLU                in 1 (Residual)",
        "1.bn2         BatchNorm2d  fused with add, ReLU, dropout  in 1 (Residual)",
        "2             BatchNorm2d  left                           the model itself (Sequential): SiLU stands "
        "behind it",
    ]
    assert str(fuse(nn.Linear(2, 2))) == "no batch norm"


@pytest.mark.parametrize("make", [lambda: Residual(dropout=0.5), lambda: Mlp(p=0.5), lambda: Functional(p=0.5)])
def test_dropout_in_the_pass(make):
    """The mask of a seed is that of our dropout behind the batch norm; evaluation drops nothing."""
    torch.manual_seed(0)
    model = make()
    x = torch.randn(64, 16) if isinstance(model, Mlp) else torch.randn(4, 8, 6, 6)
    plain = copy.deepcopy(model)
    onepass.nn.convert(plain)
    fuse(model)
    assert all("dropout" in place.outcome for place in fuse(copy.deepcopy(model)).table[-1:])
    if isinstance(model, Functional):
        model.train()
        shares = [float((model(x) == 0).float().mean()) for _ in range(8)]
        for _ in range(8):
            plain(x)
        assert 0.6 < sum(shares) / 8 < 0.9
    else:
        torch.manual_seed(1)
        theirs = plain(x)
        torch.manual_seed(1)
        ours = model(x)
        assert torch.equal(ours == 0, theirs == 0)
        assert 0.3 < float((ours == 0).float().mean()) < 0.9
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))


def test_fewer_bytes_are_kept():
    """What autograd keeps of the two ReLUs and the sum is gone."""

    def kept(model):
        seen = {}
        pack = lambda t: seen.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = model(torch.randn(4, 8, 32, 32))
        del y
        return sum(seen.values())

    model = Residual()
    before = kept(model)
    fuse(model)
    activation = 4 * 8 * 32 * 32
    # The last ReLU's output is not kept; of the sum a bit an element is.
    assert before - kept(model) >= 4 * activation - activation // 8


class Shared(nn.Module):
    """Has a batch norm that is called twice, and one whose result is used twice."""

    def __init__(self):
        super().__init__()
        self.twice, self.used, self.conv = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.used(x)
        z = self.twice(self.conv(y))
        z = z + F.relu(self.twice(y))
        return F.relu(z)


class InPlace(nn.Module):
    """Changes the batch norm's input before the sum."""

    def __init__(self):
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(3), nn.ReLU(inplace=True)

    def forward(self, x):
        y = x * 1.0
        z = self.norm(y)
        shortcut = self.relu(y)
        return z + shortcut


class AddsTo(nn.Module):
    """Adds the batch norm's output to another tensor, in place."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        y = x * 1.0
        y += self.norm(x)
        return y, x


class Statistics(nn.Module):
    """Reads the running statistics behind the batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.norm(self.conv(x))
        shift = self.other(x).mean((0, 2, 3)) * self.norm.running_mean
        return F.relu(y + shift[:, None, None])


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (Shared, {"used": "used 2 times"}),
        (InPlace, {"norm": "may change the batch norm's input"}),
        (AddsTo, {"norm": "added to another tensor in place"}),
        (Statistics, {"norm": "reads its parameters or statistics"}),
    ],
)
def test_what_must_not_be_fused(make, left):
    torch.manual_seed(0)
    model, x = make(), torch.randn(4, 3, 5, 5)
    plain = copy.deepcopy(model)
    fusion = fuse(model, x)
    for place in fusion.table:
        if place.name in left:
            assert place.outcome == "left"
            assert left[place.name] in place.note
    for mode in (True, False):
        ours, theirs = model.train(mode)(x.clone()), plain.train(mode)(x.clone())
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_of_two_summands_the_later_takes_the_sum():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.left, self.right = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return F.relu(self.a(self.left(x)) + self.b(self.right(x)))

    model, x = Two(), torch.randn(4, 3, 5, 5)
    expected = copy.deepcopy(model)(x)
    fusion = fuse(model, x)
    assert outcomes(fusion) == {"a": "left", "b": "fused with add, ReLU"}
    assert "other summand" in fusion.table[0].note
    torch.testing.assert_close(model(x), expected)


def test_a_part_that_ends_in_a_batch_norm():
    """The pass takes what stands behind the part, in the forward around it."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Identity()

        def forward(self, x):
            return self.act(self.norm(self.conv(x)))

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.act = nn.Sequential(Layer(), Layer()), nn.ReLU()

        def forward(self, x):
            y = self.layers(x)
            y += x
            return self.act(y)

    model, x = nn.Sequential(Around()), torch.randn(4, 3, 5, 5)
    plain = copy.deepcopy(model)
    fusion = fuse(model, x)
    assert outcomes(fusion) == {"0.layers.0.norm": "left", "0.layers.1.norm": "fused with add, ReLU"}
    assert fusion.table[1].note == "in 0 (Around)"
    ours, theirs = results(model, x), results(plain, x)
    torch.testing.assert_close((ours[0], ours[1], ours[-1]), (theirs[0], theirs[1], theirs[-1]))
    # Whoever changes or watches the part is served.
    seen = []
    hook = model[0].layers.register_forward_hook(lambda *_: seen.append(1))
    model(x)
    assert seen == [1]
    hook.remove()
    model[0].layers.append(nn.Sigmoid())
    plain[0].layers.append(nn.Sigmoid())
    torch.testing.assert_close(model(x), plain(x))

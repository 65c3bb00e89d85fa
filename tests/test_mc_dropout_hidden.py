"""mc_dropout and dropouts in a module's own code: refused where forward does them, and nowhere else."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onepass.nn
from onepass.nn import mc_dropout, mc_predict


class UNet(nn.Module):
    """Hands a number on to its blocks by methods of the constructor, as MONAI's does."""

    def __init__(self, dropout=0.1, depth=2):
        super().__init__()
        self.dropout = dropout
        self.model = nn.Sequential(*(self._block() for _ in range(depth)), nn.Linear(8, 3))

    def _block(self):
        return nn.Sequential(nn.Linear(8, 8), nn.Dropout(self.dropout), nn.ReLU())

    def forward(self, x):
        return self.model(x)


def test_a_number_for_the_blocks_is_no_dropout():
    model = UNet()
    onepass.nn.convert(model)
    assert (mc_predict(model, torch.randn(4, 8), 20, seed=1).variance > 0).all()
    with (
        pytest.raises(ValueError, match=r"got model\.0\.1 \(Dropout\), model\.1\.1 \(Dropout\); "),
        mc_dropout(UNet()),
    ):
        pass


class Direct(nn.Module):
    def __init__(self, dropout=0.5):
        super().__init__()
        self.dropout = dropout

    def forward(self, x):
        return F.dropout(x, self.dropout, self.training)


class Ours(Direct):
    def forward(self, x):
        return onepass.nn.functional.dropout(x, self.dropout, self.training)


class OtherName(Direct):
    def forward(this, x):
        return F.dropout(x, this.dropout, this.training)


class Method(Direct):
    def forward(self, x):
        return self.drop(x)

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training)


class Property(Direct):
    @property
    def p(self):
        return self.dropout if self.training else 0.0

    def forward(self, x):
        return F.dropout(x, self.p)


class Parent(Method):
    def forward(self, x):
        return super().forward(x) + 1


class Inner(Direct):
    def forward(self, x):
        return torch.stack([F.dropout(one, self.dropout, self.training) for one in x])


class Named(Direct):
    def forward(self, x):
        return F.dropout(x, getattr(self, "dropout"), self.training)  # noqa: B009


class Several(Direct):
    def forward(self, x, scale=1.0):
        return F.dropout(input=x * scale, training=self.training, p=self.dropout)


class OfClass(nn.Module):
    dropout = 0.25

    def forward(self, x):
        return F.dropout(x, self.dropout, self.training)


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class Wrapped(Direct):
    @wrapped
    @torch.no_grad()
    def forward(self, x):
        return F.dropout(x, self.dropout, self.training)


def patched() -> nn.Module:
    module = nn.Identity()
    module.dropout = 0.5
    module.forward = lambda x: F.dropout(x, 0.5)
    module.forward = functools.partial(module.forward)
    return module


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_dropout = 0.1

    def forward(self, x):
        p = self.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(x, x, x, dropout_p=p)


class Config:
    def __init__(self, **numbers):
        vars(self).update(numbers)


class Configured(nn.Module):
    """Keeps its probability in a config, as many of transformers' modules do."""

    def __init__(self, p=0.1):
        super().__init__()
        self.config = Config(hidden_dropout=p)

    def forward(self, x):
        return F.dropout(x, p=self.config.hidden_dropout, training=self.training)


class DenseLayer(nn.Module):
    """Keeps its probability as a number, as torchvision's DenseNet does."""

    def __init__(self, drop_rate=0.2):
        super().__init__()
        self.drop_rate = float(drop_rate)

    def forward(self, x):
        return F.dropout(x, p=self.drop_rate, training=self.training) if self.drop_rate > 0 else x


HIDDEN = [
    (Direct(), "dropout"),
    (Ours(), "dropout"),
    (OtherName(), "dropout"),
    (Method(), "dropout"),
    (Property(), "dropout"),
    (Parent(), "dropout"),
    (Inner(), "dropout"),
    (Named(), "dropout"),
    (Several(), "dropout"),
    (OfClass(), "dropout"),
    (Wrapped(), "dropout"),
    (patched(), "dropout"),
    (Attention(), "attention_dropout"),
    (DenseLayer(), "drop_rate"),
    (Configured(), "config.hidden_dropout"),
    *((Direct(p), "dropout") for p in (1, np.float32(0.5), np.float64(0.5))),
]


@pytest.mark.parametrize(("module", "number"), HIDDEN, ids=lambda one: type(one).__name__)
def test_what_forward_drops_is_refused(module, number):
    kind = type(module).__name__
    model = nn.Sequential(onepass.nn.Dropout(), nn.ModuleDict({"inner": module}))
    with (
        pytest.raises(ValueError, match=rf"got 1\.inner \({kind}, whose code reads {number}\); "),
        mc_dropout(model),
    ):
        pass
    assert model.training
    with pytest.raises(ValueError, match=rf"got the model itself \({kind}, whose code"), mc_dropout(module):
        pass


class DropPath(nn.Module):
    """Stochastic depth, which evaluates like everything else that is no dropout."""

    def __init__(self):
        super().__init__()
        self.drop_prob = 0.1

    def forward(self, x):
        return x if not self.training else x * (torch.rand(len(x), 1) > self.drop_prob)


class OtherParent(Direct):
    def forward(self, x):
        return x


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = onepass.nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(x)


class OnlyAsks(Module):
    """Asks by a number whether to call the module, as MONAI's SegResNet does."""

    def __init__(self):
        super().__init__()
        self.dropout_prob = 0.5

    def forward(self, x):
        if self.dropout_prob is not None:
            x = self.dropout(x)
        if self.dropout_prob:
            x = x + 1
        return x if self.dropout_prob > 0 else -x


def with_number(module: nn.Module, p: object) -> nn.Module:
    module.dropout = p
    return module


@pytest.mark.parametrize(
    "module",
    [
        Direct(0.0),
        Direct(0),
        Direct(True),
        Direct(None),
        Direct("0.5"),
        with_number(nn.Identity(), 0.5),
        with_number(nn.Sequential(nn.Linear(4, 4)), 0.5),
        OtherParent(),
        DropPath(),
        DenseLayer(0),
        Configured(0.0),
        Module(),
        OnlyAsks(),
        nn.LSTM(4, 4),
        nn.GRU(4, 4, 2),
        nn.MultiheadAttention(4, 2),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_does_not_drop_is_accepted(module):
    model = nn.ModuleList([onepass.nn.Dropout(), module])
    with mc_dropout(model):
        assert not module.training


@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last:UserWarning")
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_drop_between_layers_only(kind):
    with mc_dropout(nn.ModuleList([onepass.nn.Dropout(), kind(4, 4, 1, dropout=0.5)])):
        pass
    model = nn.ModuleList([onepass.nn.Dropout(), kind(4, 4, 2, dropout=0.5)])
    with pytest.raises(ValueError, match=rf"got 1 \({kind.__name__}\); "), mc_dropout(model):
        pass


def test_a_dropout_with_a_forward_of_its_own_is_refused():
    """It would not be made active, silently."""
    for module in (onepass.nn.Dropout(), onepass.nn.AlphaDropout(), onepass.nn.BatchNorm1d(3, dropout=0.5)):
        model = nn.Sequential(onepass.nn.Dropout(), module)
        module.forward = lambda x: x
        kind = type(module).__name__
        with pytest.raises(ValueError, match=rf"got 1 \({kind} with a forward of its own\); "), mc_dropout(model):
            pass
        del module.forward
        with mc_dropout(model):
            pass


class OneFunction(nn.Module):
    """Has a module for dropout, or a number where it runs as one function, as timm's and GPT-2's attention do."""

    def __init__(self, fused, p=0.5):
        super().__init__()
        self.fused = fused
        self.attn_drop = onepass.nn.Dropout(p)

    def forward(self, x):
        if self.fused:
            p = self.attn_drop.p if self.training else 0.0
            return F.scaled_dot_product_attention(x, x, x, dropout_p=p)
        return self.attn_drop((x @ x.mT).softmax(-1)) @ x


def test_a_dropout_that_is_only_a_number_is_refused():
    """At the end of the model's call, which shows what it does."""
    x = torch.randn(2, 5, 4)
    for model in (nn.Sequential(onepass.nn.Dropout(), OneFunction(True)), OneFunction(True)):
        name = r"1 \(One" if len(model._modules) == 2 else r"the model itself \(One"
        with (
            mc_dropout(model),
            pytest.raises(ValueError, match=rf"got {name}.*, whose code reads attn_drop\.p\); "),
        ):
            model(x)
        assert not model._forward_hooks
        with pytest.raises(ValueError, match="mc_dropout: model must drop by calling its dropouts"):
            mc_predict(model, x, 2)
    assert (mc_predict(OneFunction(False), x, 9, seed=1).variance > 0).all()
    assert (mc_predict(nn.Sequential(onepass.nn.Dropout(), OneFunction(True, 0.0)), x, 9).variance > 0).any()

"""fuse next to changes after the recording: results stay those of the code."""

from __future__ import annotations

import os
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from fuse_models import assert_as_written
from onepass.nn import fuse

CONSTANTS = types.ModuleType("constants")
SCALE = 1.0


def helper(y, factor=2.0):
    return y * factor * helper.gain


class Tool:
    """Is no module, and has what a forward reads."""

    fixed = 1.0

    def __init__(self):
        self.own = 1.0

    def use(self, y):
        return y * self.own * self.fixed

    @property
    def size(self):
        return 1.0

    @classmethod
    def constant(cls):
        return 1.0


class Kind(type):
    factor = 1.0


class OfKind(metaclass=Kind):
    pass


class Base(nn.Module):
    gain = 1.0

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def scale(self, y):
        return y

    def forward(self, x):
        return self.scale(self.norm(x)) * self.gain


class Part(Base):
    pass


def around(n=1.0):
    def inner(y):
        return y * n

    return inner


class Model(nn.Module):
    """Depends on many things that are no tensors; two of its batch norms are fused."""

    def __init__(self):
        super().__init__()
        self.part, self.norm, self.relu, self.lin = Part(), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4)
        self.drop, self.items, self.table, self.flag = nn.Dropout(0.0), [1.0, 2.0], {"a": 1.0}, True
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x):
        y = helper(self.part(x)) * SCALE * CONSTANTS.k
        y = y * OfKind.factor
        y = TOOL.use(y) * TOOL.size * TOOL.constant()
        y = CLOSURE(y) + self.items[1] * self.table["a"]
        if self.flag and "shift" in self._buffers:
            y = y + self.shift
        y = y * self.weight if isinstance(self.weight, nn.Parameter) else y - self.weight
        for module in self._modules.values():
            if isinstance(module, nn.Tanh):
                y = module(y)
        y = y * getattr(self, "later", 1.0) * self.__class__.__name__.count("M")
        z = self.lin(y)
        return self.drop(self.relu(self.norm(z) + y))


CHANGES = {
    "nothing": lambda m, p: None,
    "hook on a ReLU": lambda m, p: m.relu.register_forward_hook(lambda mod, i, o: o * 3),
    "hook that changes in place": lambda m, p: m.norm.register_forward_hook(lambda mod, i, o: o.mul_(3)),
    "hook before a part": lambda m, p: m.part.register_forward_pre_hook(lambda mod, i: (i[0] * 3,)),
    "hook on the model": lambda m, p: m.register_forward_hook(lambda mod, i, o: o * 3),
    "another part": lambda m, p: setattr(m, "relu", nn.Tanh()),
    "another part of the class": lambda m, p: setattr(m, "lin", nn.Linear(4, 4).double()),
    "by _modules": lambda m, p: m._modules.__setitem__("extra", nn.Tanh()),
    "inplace": lambda m, p: setattr(m.relu, "inplace", True),
    "another class": lambda m, p: setattr(m.relu, "__class__", nn.Tanh),
    "method of an instance": lambda m, p: setattr(m.part, "scale", lambda y: y * 7),
    "forward of an instance": lambda m, p: setattr(m.part, "forward", lambda y: y * 7),
    "method of a class": lambda m, p: p.setattr(Base, "scale", lambda s, y: y * 7),
    "method of the subclass": lambda m, p: p.setattr(Part, "scale", lambda s, y: y * 7, raising=False),
    "forward of the base": lambda m, p: p.setattr(Base, "forward", lambda s, y: y * 7),
    "forward of the model": lambda m, p: p.setattr(Model, "forward", lambda s, y: y * 7),
    "forward of torch's class": lambda m, p: p.setattr(nn.ReLU, "forward", lambda s, y: y * 7),
    "__call__ of a class": lambda m, p: p.setattr(Part, "__call__", lambda s, y: y * 7),
    "__getattr__ of a class": lambda m, p: p.setattr(Part, "__getattr__", own_getattr, raising=False),
    "property of a class": lambda m, p: p.setattr(Base, "scale", property(lambda s: torch.neg)),
    "attribute of a class": lambda m, p: p.setattr(Base, "gain", 5.0),
    "global": lambda m, p: p.setitem(globals(), "SCALE", 5.0),
    "helper": lambda m, p: p.setitem(globals(), "helper", lambda y: y * 7),
    "code of a helper": lambda m, p: p.setattr(helper, "__code__", (lambda y, factor: y * 7).__code__),
    "default of a helper": lambda m, p: p.setattr(helper, "__defaults__", (7.0,)),
    "attribute of a helper": lambda m, p: p.setattr(helper, "gain", 7.0),
    "attribute of another module": lambda m, p: p.setattr(CONSTANTS, "k", 7.0),
    "closure": lambda m, p: p.setattr(CLOSURE.__closure__[0], "cell_contents", 7.0),
    "method of a tool": lambda m, p: p.setattr(Tool, "use", lambda s, y: y * 7),
    "property of a tool": lambda m, p: p.setattr(Tool, "size", 7.0),
    "classmethod of a tool": lambda m, p: p.setattr(Tool, "constant", classmethod(lambda c: 7.0)),
    "attribute of a tool": lambda m, p: p.setattr(TOOL, "own", 7.0),
    "class attribute of a tool": lambda m, p: p.setattr(Tool, "fixed", 7.0),
    "item of a list": lambda m, p: m.items.__setitem__(1, 7.0),
    "item of a dict": lambda m, p: m.table.__setitem__("a", 7.0),
    "flag": lambda m, p: setattr(m, "flag", False),
    "attribute by getattr": lambda m, p: setattr(m, "later", 7.0),
    "no parameter any more": lambda m, p: (m._parameters.pop("weight"), setattr(m, "weight", torch.ones(4))),
    "no buffer any more": lambda m, p: delattr(m, "shift"),
    "no bias any more": lambda m, p: setattr(m.norm, "bias", None),
    "no statistics any more": lambda m, p: [setattr(m.norm, f"running_{n}", None) for n in ("mean", "var")],
    "tied statistics": lambda m, p: m.norm.register_buffer("running_mean", m.part.norm.running_mean),
    "mean is variance": lambda m, p: m.norm.register_buffer("running_mean", m.norm.running_var),
    "statistics in one memory": lambda m, p: m.norm.register_buffer("running_mean", m.norm.running_var[:]),
    "tied weight": lambda m, p: setattr(m.norm, "weight", m.part.norm.weight),
    "a part evaluates": lambda m, p: m.norm.eval(),
    "evaluation": lambda m, p: m.eval(),
    "momentum": lambda m, p: setattr(m.norm, "momentum", 0.7),
    "no momentum": lambda m, p: setattr(m.norm, "momentum", None),
    "eps": lambda m, p: setattr(m.norm, "eps", 0.7),
    "no gradients": lambda m, p: m.requires_grad_(False),
    "other memory": lambda m, p: setattr(m.norm.weight, "data", torch.full((4,), 3.0).double()),
    "dropout": lambda m, p: setattr(m.drop, "p", 1.0),
    "weight norm": lambda m, p: nn.utils.parametrizations.weight_norm(m.lin),
    "batch norm parametrized": lambda m, p: register_parametrization(m.norm, "weight", Double()),
    "builtin": lambda m, p: p.setitem(globals(), "getattr", lambda *a: 7.0),
    "attribute of a metaclass": lambda m, p: p.setattr(Kind, "factor", 7.0),
    "functional.relu": lambda m, p: p.setattr(F, "relu", lambda y, inplace=False: y * 7),
    "torch.relu": lambda m, p: p.setattr(torch, "relu", lambda y: y * 7),
    "functional.batch_norm": lambda m, p: p.setattr(F, "batch_norm", lambda y, *rest, **named: y * 7),
    "Tensor.__add__": lambda m, p: p.setattr(torch.Tensor, "__add__", lambda a, b: a - b),
}
TOOL, CLOSURE = Tool(), around()
CONSTANTS.k, helper.gain = 1.0, 1.0


class Double(nn.Module):
    def forward(self, w):
        return 2 * w


def own_getattr(self, name):
    return torch.neg if name == "scale" else nn.Module.__getattr__(self, name)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_after_the_recording(change, monkeypatch):
    torch.manual_seed(0)
    model, x = Model().double(), torch.randn(8, 4).double()
    fusion = fuse(model)
    for _ in range(2):
        model(x)
    assert [place.outcome for place in fusion.table] == ["left", "fused with add, ReLU"]
    assert fusion.graphs == 1
    CHANGES[change](model, monkeypatch)
    assert_as_written(model, x, calls=3)
    assert fusion.graphs == 1 or change != "nothing"


def test_hooks_for_all_modules():
    model, x = Model().double(), torch.randn(8, 4).double()
    fuse(model)
    model(x)
    hook = nn.modules.module.register_module_forward_hook(lambda mod, i, o: o * 2)
    try:
        assert_as_written(model, x)
    finally:
        hook.remove()
    assert_as_written(model, x)


@pytest.mark.parametrize("read", ["__dict__", "environ"])
def test_what_dynamo_does_not_guard(read, monkeypatch):
    """The model runs as it was written, and says why."""

    class Reads(Base):
        def forward(self, x):
            found = self.__dict__ if read == "__dict__" else os.environ
            return F.relu(self.norm(x)) * float(found.get("factor", 1.0))

    model, x = Reads().double(), torch.randn(8, 4).double()
    fusion = fuse(model)
    assert_as_written(model, x)
    monkeypatch.setenv("factor", "7.0")
    model.__dict__["factor"] = 7.0
    assert_as_written(model, x)
    assert fusion.table[0].note.startswith("forward in test_fuse_faults.py uses ")

"""fuse next to changes after the recording, and where the order matters: results stay those of the code."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from onepass.nn import fuse
from tolerance import FLOAT64

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


def state(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def assert_as_written(model, *inputs, calls=2):
    """Compares calls with what the forward says, from the same statistics: results, statistics and inputs."""
    for _ in range(calls):
        before, values = state(model), []
        for call in (model, model._call_impl):
            for name, value in model.named_buffers():
                value.copy_(before[name])
            given = [x.clone() for x in inputs]
            result = call(*given)
            values.append((result, state(model), given))
        torch.testing.assert_close(*values, **FLOAT64)


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


class Order(nn.Module):
    """A forward whose batch norm must not run later, nor what stands behind it earlier."""

    def __init__(self, run):
        super().__init__()
        self.norm, self.other, self.run = nn.BatchNorm1d(4), nn.BatchNorm1d(4), run

    def forward(self, x):
        return self.run(self, x)


def summand_changed(m, x):
    y = x * 2
    z = m.norm(x) + y
    y.mul_(3)
    return F.relu(z) + y


def sum_changed(m, x):
    z = m.norm(x) + x
    z.mul_(-1)
    return F.relu(z)


def weight_changed(m, x):
    y = m.norm(x)
    m.norm.weight.data.mul_(1.5)
    z = F.relu(y)
    m.norm.weight.data.div_(1.5)
    return z


def input_changed(m, x):
    y = x * 1
    z = m.norm(y)
    return F.relu(z + y.relu_())


def added_to_another(m, x):
    y = x * 1
    view = y.view(-1)
    y += m.norm(x)
    return F.relu(y), view


def added_to_the_input(m, x):
    x += m.norm(x)
    return F.relu(x)


def used_twice(m, x):
    y = m.norm(x)
    return F.relu(y), y


def alias_of_the_result(m, x):
    y = m.norm(x)
    z = y
    y += x
    return F.relu_(z)


def twice_itself(m, x):
    y = m.norm(x)
    return F.relu(y + y)


def statistics_added(m, x):
    return F.relu(m.norm(x) + m.norm.running_mean.expand(8, 4))


def statistics_read(m, x):
    return F.relu(m.norm(x) + x * m.norm.running_var)


def broadcast(m, x):
    return F.relu(m.norm(x) + x[:1])


def other_dtype(m, x):
    y = m.norm(x)
    y += x.float()
    return F.relu(y)


def other_layout(m, x):
    y = x.t().contiguous().t() + m.norm(x)
    return F.relu(y), y.t().is_contiguous()


def scaled(m, x):
    return F.relu(torch.add(m.norm(x), x, alpha=2))


def two_norms(m, x):
    return F.relu(m.norm(x) + m.other(x))


def two_norms_in_place(m, x):
    y = m.norm(x)
    y += m.other(x)
    return F.relu_(y)


def without_gradients(m, x):
    y = m.norm(x)
    with torch.no_grad():
        return F.relu(y)


def in_autocast(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        y = m.norm(F.linear(x.float(), torch.ones(4, 4)))
        y = y + x
    return F.relu(y.float())


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        (summand_changed, "fused with add"),
        (sum_changed, "fused with add"),
        (weight_changed, "left"),
        (input_changed, "left"),
        (added_to_another, "left"),
        (added_to_the_input, "left"),
        (used_twice, "left"),
        (alias_of_the_result, "left"),
        (twice_itself, "left"),
        (statistics_added, "left"),
        (statistics_read, "left"),
        (broadcast, "left"),
        (other_dtype, "left"),
        (other_layout, "left"),
        (scaled, "left"),
        (two_norms, "left"),
        (two_norms_in_place, "left"),
        (without_gradients, "left"),
        (in_autocast, "left"),
    ],
)
def test_order_and_kinds(run, outcome):
    torch.manual_seed(0)
    model, x = Order(run), torch.randn(8, 4).double()
    model = model if run is in_autocast else model.double()
    fusion = fuse(model)
    assert_as_written(model, x, calls=1)
    assert fusion.table[0].outcome == outcome
    assert fusion.table[0].note or outcome != "left"
    assert (fusion.table[1].outcome == "fused with add, ReLU") == run.__name__.startswith("two_norms")


def test_inputs_that_share_memory_with_the_statistics():
    """The graph cannot know that the summand lies where the mean does."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4).double()

        def forward(self, x, y):
            return F.relu(self.norm(x) + y)

    memory = torch.arange(100.0).double()
    model, x = Sum(), torch.randn(8, 4).double()
    fusion = fuse(model)
    results, means = [], []
    for call in (model, model._call_impl):
        memory.copy_(torch.arange(100.0))
        model.norm.running_mean = memory[:4]
        results.append(call(x, memory[:32].view(8, 4)))
        means.append(model.norm.running_mean.clone())
    assert fusion.table[0].outcome == "fused with add, ReLU"
    torch.testing.assert_close(*results, **FLOAT64)
    torch.testing.assert_close(*means, **FLOAT64)

"""fuse where the order of operations matters, or memory, dtypes and layouts: results stay those of the code."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fuse_models import assert_as_written
from onepass.nn import fuse
from tolerance import FLOAT64


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

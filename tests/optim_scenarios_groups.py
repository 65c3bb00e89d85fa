"""What an optimizer is given: parameters, names, groups; scenarios as in optim_scenarios.py."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from optim_scenarios import SCENARIOS, fill, net, outcome, parameter, scenario, values

__all__ = ["SCENARIOS"]


@scenario
def names(cls):
    """Names come from named_parameters: they stand in the groups and checkpoints, for all parameters or none."""
    module = net()
    optimizer = cls(module.named_parameters(), lr=0.1)
    fill(module.parameters())
    optimizer.step()
    saved = optimizer.state_dict()
    nameless = cls(net().parameters(), lr=0.1)
    nameless.load_state_dict(saved)
    named = cls(net().named_parameters(), lr=0.1)
    named.load_state_dict(nameless.state_dict())
    groups = cls(
        [{"params": module[0].named_parameters(), "lr": 0.2}, {"params": module[2].named_parameters()}], lr=1
    )
    one = parameter()
    return [
        [o.param_groups[0].get("param_names") for o in (optimizer, nameless, named)],
        saved["param_groups"][0]["param_names"],
        [(g["param_names"], g["lr"]) for g in groups.param_groups],
        outcome(lambda: groups.add_param_group({"params": [parameter()]})),
        outcome(lambda: groups.add_param_group({"params": [("z", parameter())]})),
        outcome(lambda: cls([("a", parameter()), parameter()])),
        outcome(lambda: len(cls([("a", one), ("b", one)], lr=0.1).param_groups[0]["params"])),
        len(groups.param_groups),
    ]


@scenario
def what_may_be_optimized(cls):
    kinds = [
        [],
        parameter(),
        [1],
        "x",
        None,
        {parameter()},
        {"params": parameter()},
        [{"params": parameter()}],
        [{"params": [parameter()], "lr": 0.5, "foo": 1}],
        [{"params": {parameter()}}],
        iter([parameter()]),
        [{"params": iter([parameter()])}],
        [torch.ones(2)],
        [torch.ones(2, requires_grad=True) * 2],
        [[parameter()]],
        {"a": parameter()}.values(),
        [{"params": []}],
        OrderedDict(a=parameter()).items(),
        nn.ParameterList([parameter()]),
    ]

    def summary(given):
        return [(len(g["params"]), g["lr"], g.get("foo")) for g in cls(given, lr=0.1).param_groups]

    return [outcome(lambda given=given: summary(given)) for given in kinds]


@scenario
def what_may_be_added(cls):
    old = parameter()
    groups = [
        [],
        parameter(),
        {"params": old},
        {"params": parameter()},
        {"params": [parameter()], "lr": 0.5},
        {"params": {parameter()}},
        {"params": []},
        {"params": iter([parameter()])},
        {"params": [1]},
    ]
    found = []
    for group in groups:
        optimizer = cls([old], lr=0.1)
        found.append((outcome(lambda o=optimizer, g=group: o.add_param_group(g)), len(optimizer.param_groups)))
    return found


@scenario
def groups_edited_by_hand(cls):
    module = net()
    optimizer = cls([{"params": module[0].parameters()}, {"params": module[2].parameters()}], lr=0.1)
    fill(module.parameters())
    optimizer.step()
    optimizer.param_groups[1]["lr"] = 0.01
    optimizer.param_groups[0]["weight_decay"] = 0.3
    fill(module.parameters(), 2)
    optimizer.step()
    optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"][:1]
    fill(module.parameters(), 3)
    optimizer.step()
    del optimizer.param_groups[1]
    fill(module.parameters(), 4)
    optimizer.step()
    optimizer.param_groups.clear()
    return values(module), outcome(optimizer.step), outcome(optimizer.zero_grad)


@scenario
def defaults_changed_later(cls):
    module = net()
    optimizer = cls(module[0].parameters(), lr=0.1)
    optimizer.defaults["lr"] = 0.7
    optimizer.add_param_group({"params": module[2].parameters()})
    return [group["lr"] for group in optimizer.param_groups]


@scenario
def frozen_parameters(cls):
    found = []
    for frozen_too in (False, True):
        module = net()
        module[0].weight.requires_grad_(False)
        optimizer = cls(module.parameters(), lr=0.1)
        fill(p for p in module.parameters() if p.requires_grad or frozen_too)
        optimizer.step()
        found.append(values(module))
    return found


@scenario
def other_shapes_and_memory(cls):
    parameters = [nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(0)), nn.Parameter(torch.ones(1, 1, 1))]
    parameters.append(nn.Parameter(torch.ones(4, 6)[:, ::2]))
    parameters.append(nn.Parameter(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)))
    optimizer = cls(parameters, lr=0.1)
    for k in range(2):
        fill(parameters, k)
        optimizer.step()
        parameters[2].data = torch.full((1, 1, 1), 2.0)
    return [p.detach() for p in parameters]

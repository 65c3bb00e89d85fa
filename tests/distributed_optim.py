"""Compares, on ranks, a sharded optimizer with one in a single process; test_distributed_optim.py calls it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import onepass.optim

__all__ = ["Case", "Leaf", "compare", "local", "meshes", "shard_like"]

_MESHES: dict[tuple[int, ...], Any] = {}


@dataclass(frozen=True)
class Leaf:
    """A parameter: its shape, and its placements on a mesh; None for a plain tensor."""

    shape: tuple[int, ...]
    mesh: tuple[int, ...] = ()
    placements: tuple[int | None, ...] | None = None
    """The dimension that each dimension of the mesh shards, or None where it replicates."""
    grad_placements: tuple[int | None, ...] | None = None
    """Those of its gradient, if they are others."""
    without_grad: bool = False


@dataclass(frozen=True)
class Case:
    """A training of a few steps on given gradients."""

    rule: str
    leaves: tuple[Leaf, ...]
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    steps: int = 3
    infinite: tuple[int, int, int] | None = None
    """Step, parameter and element whose gradient is infinite."""
    scale: float | None = None
    """The loss's scale, as GradScaler tells the optimizer."""
    zero_grad: bool = False


def meshes(shape: tuple[int, ...]) -> Any:
    """The mesh of all ranks of that shape, made once."""
    if shape not in _MESHES:
        _MESHES[shape] = init_device_mesh("cpu", shape)
    return _MESHES[shape]


def local(value: Any) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def shard_like(value: Tensor, param: Any) -> Tensor:
    """The part of a whole tensor that this rank has of a parameter."""
    if not isinstance(param, DTensor) or value.dim() != param.dim():
        return value
    return distribute_tensor(value, param.device_mesh, param.placements, src_data_rank=None).to_local()


def _kinds(placements: tuple[int | None, ...]) -> list[Any]:
    return [Replicate() if dim is None else Shard(dim) for dim in placements]


def _place(value: Tensor, leaf: Leaf, of_grad: bool = False) -> Tensor:
    if leaf.placements is None:
        return value.clone()
    placements = leaf.grad_placements if of_grad and leaf.grad_placements else leaf.placements
    return distribute_tensor(value.clone(), meshes(leaf.mesh), _kinds(placements), src_data_rank=None)


def _values(case: Case, step: int) -> list[Tensor]:
    torch.manual_seed(step)
    values = [torch.randn(leaf.shape).to(case.dtype) for leaf in case.leaves]
    if case.infinite is not None and case.infinite[0] == step:
        one = values[case.infinite[1]].view(-1)
        one[case.infinite[2] % len(one)] = float("inf")
    return values


def _give(case: Case, params: list[torch.nn.Parameter], step: int, sharded: bool) -> None:
    for param, leaf, value in zip(params, case.leaves, _values(case, step), strict=True):
        param.grad = None
        if not leaf.without_grad:
            value = value * (case.scale or 1.0)
            param.grad = _place(value, leaf, True) if sharded else value


def _run(case: Case, sharded: bool) -> tuple[list[torch.nn.Parameter], Any]:
    params = [
        torch.nn.Parameter(_place(value, leaf) if sharded else value)
        for value, leaf in zip(_values(case, 1000), case.leaves, strict=True)
    ]
    optimizer = getattr(onepass.optim, case.rule)(params, lr=0.01, **case.options)
    for step in range(case.steps):
        _give(case, params, step, sharded)
        if case.scale is not None:
            optimizer.grad_scale = torch.tensor(case.scale)
            optimizer.found_inf = torch.tensor(0.0)
        optimizer.step(zero_grad=case.zero_grad)
    return params, optimizer


def _gap(one: Any, other: Any, param: Any = None) -> float:
    """The relative distance of this rank's part from that of the other run."""
    one, other = local(one).double(), shard_like(other, param).double()
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    if not one.isnan().equal(other.isnan()):
        return float("inf")
    distance = (one - other).abs() / other.abs().clamp(min=1e-30)
    return float(torch.where(one == other, 0.0, distance).nan_to_num(0.0).max())


def compare(case: Case) -> dict[str, float]:
    """Relative distances between this rank's part of the sharded run and that of the other one."""
    params, sharded = _run(case, True)
    plain, single = _run(case, False)
    with torch.no_grad():
        found = {"params": max(map(_gap, params, plain, params))}
        for param, other in zip(params, plain, strict=True):
            own, wanted = sharded.state.get(param, {}), single.state.get(other, {})
            if own.keys() != wanted.keys():
                found["states"] = float("inf")
            for name in own.keys() & wanted.keys():
                found[name] = max(found.get(name, 0.0), _gap(own[name], wanted[name], param))
                if isinstance(param, DTensor) and name != "step":
                    kept = own[name]
                    right = isinstance(kept, DTensor) and kept.placements == param.placements
                    found["placements"] = max(found.get("placements", 0.0), 0.0 if right else 1.0)
            if case.zero_grad and param.grad is not None:
                found["grads"] = max(found.get("grads", 0.0), float(local(param.grad).abs().sum()))
        found["skipped"] = abs(sharded.skipped_steps - single.skipped_steps)
        found["grad_norm"] = _gap(sharded.grad_norm, single.grad_norm)
        if case.options.get("telemetry"):
            for name in ("grad_norm", "param_norm", "update_norm", "nonfinite", "lost_updates"):
                pairs = zip(sharded.statistics(), single.statistics(), strict=True)
                found[f"statistics.{name}"] = max(_gap(getattr(a, name), getattr(b, name)) for a, b in pairs)
    return found

"""The first line of a run file: what is trained, and by what."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from onepass.monitor._file import FORMAT
from onepass.optim.lr_scheduler import ScheduleLR
from onepass.optim.no_decay import no_decay_groups

__all__ = ["header_of"]

# What of a param group is written down, where it has it.
_OPTIONS = (
    "lr",
    "initial_lr",
    "weight_decay",
    "betas",
    "momentum",
    "eps",
    "nesterov",
    "rounding",
    "master_weights",
)
# What of our optimizers' own options is written down.
_TAIL = ("max_grad_norm", "skip_nonfinite", "ema_decay")
# What of a layer is written down.
_LAYER_OPTIONS = ("momentum", "eps", "p", "activation", "dropout")


def header_of(
    model: nn.Module, optimizer: Any, scheduler: Any, scaler: Any, every: int, layers_every: int | None
) -> dict[str, Any]:
    """Returns the row of kind "run"."""
    params = list(model.parameters())
    dtypes = [str(param.dtype).removeprefix("torch.") for param in params]
    return {
        "kind": "run",
        "format": FORMAT,
        "onepass": version("onepass"),
        "torch": torch.__version__,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": str(params[0].device) if params else "cpu",
        "model": {
            "class": type(model).__name__,
            "parameters": sum(param.numel() for param in params),
            "dtype": max(dtypes, key=dtypes.count) if dtypes else None,
            "layers": [_layer(name, module) for name, module in model.named_modules() if _is_layer(module)],
        },
        "optimizer": {
            "class": type(optimizer).__name__,
            **{name: value for name in _TAIL if (value := _plain(getattr(optimizer, name, None))) is not None},
            "groups": _groups(model, optimizer),
        },
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        **({"schedule": repr(scheduler._shapes["lr"])} if isinstance(scheduler, ScheduleLR) else {}),
        "scaler": scaler is not None,
        "every": {"step": every, "layers": layers_every},
    }


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is one without parts, or holds parameters itself, as nn.MultiheadAttention does."""
    return not module._modules or any(param is not None for param in module._parameters.values())


def _layer(name: str, module: nn.Module) -> dict[str, Any]:
    options = {key: getattr(module, key, None) for key in _LAYER_OPTIONS}
    kept = {key: value for key, value in options.items() if isinstance(value, (int, float, str))}
    parameters = sum(param.numel() for param in module.parameters(recurse=False))
    return {"name": name, "type": type(module).__name__, "parameters": parameters, **kept}


def _groups(model: nn.Module, optimizer: Any) -> list[dict[str, Any]]:
    exempt = {id(param) for param in _norms_and_biases(model)}
    found = []
    for group in optimizer.param_groups:
        kept = {name: _plain(group[name]) for name in _OPTIONS if name in group}
        decayed = bool(kept.get("weight_decay")) and any(id(param) in exempt for param in group["params"])
        found.append(
            {
                "parameters": sum(param.numel() for param in group["params"]),
                **{name: value for name, value in kept.items() if value is not None},
                "decays_norms_or_biases": decayed,
            }
        )
    return found


def _norms_and_biases(model: nn.Module) -> list[Tensor]:
    """The parameters that `no_decay_groups` would not decay."""
    groups, exempt = no_decay_groups(model, 1.0)
    return list(groups[-1]["params"]) if exempt else []


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return float(value)
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (int, float, str, bool)) else None

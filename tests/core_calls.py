"""The functions of the native module with arguments that are right, so that a test names only the wrong one."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from onepass import _native
from onepass.optim._lists.records import ListGroup
from onepass.optim._lists.tail import Tail, TailMemory


class Producer:
    """An object that is no tensor and hands out what `make` returns."""

    def __init__(self, make):
        self.make = make

    def __dlpack__(self, **_):
        return self.make()


def patched(offset, kind, value, version=None, tensor=None):
    """A tensor of four elements, 1 to 4, or another one, whose DLPack struct has another value at this offset."""

    def make():
        exported = torch.arange(1.0, 9.0)[:4] if tensor is None else tensor
        capsule = exported.__dlpack__(**({"max_version": version} if version else {}))
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        address = get(capsule, b"dltensor_versioned" if version else b"dltensor")
        kind.from_address(address + offset).value = value
        return capsule

    return Producer(make)


def on_device(number, tensor=None):
    """A tensor that says it is on a device, by DLPack's number of its type: 2 for CUDA, 10 for ROCm."""
    return patched(8, ctypes.c_int32, number, tensor=tensor)


def batch_norm(**given: Any) -> Any:
    """Training of x, (4, 3)."""
    right = {
        "x": torch.ones(4, 3),
        "y": torch.zeros(4, 3),
        "mean": torch.zeros(3),
        "invstd": torch.zeros(3),
        **dict.fromkeys(("weight", "bias", "residual", "running_mean", "running_var", "batches", "mask")),
        "momentum": 0.1,
        "eps": 1e-5,
        "activation": None,
        "dropout": 0.0,
        "seed": 0,
        "workspace": None,
        "threads": 1,
    }
    return _native.core.batch_norm_forward(**{**right, **given})


def batch_norm_inference(**given: Any) -> Any:
    """Evaluation of x, (4, 3)."""
    right = {
        "x": torch.ones(4, 3),
        "y": torch.zeros(4, 3),
        "running_mean": torch.zeros(3),
        "running_var": torch.ones(3),
        **dict.fromkeys(("weight", "bias", "residual", "mask")),
        "eps": 1e-5,
        "activation": None,
        "dropout": 0.0,
        "seed": 0,
        "threads": 1,
    }
    return _native.core.batch_norm_inference(**{**right, **given})


def batch_norm_backward(**given: Any) -> Any:
    """The gradient of x, (4, 3)."""
    right = {
        "dy": torch.ones(4, 3),
        "x": torch.ones(4, 3),
        "dx": torch.zeros(4, 3),
        "mean": torch.zeros(3),
        "invstd": torch.ones(3),
        **dict.fromkeys(("dweight", "dbias", "dresidual", "weight", "bias", "mask", "workspace")),
        "activation": None,
        "dropout": 0.0,
        "seed": 0,
        "training": True,
        "threads": 1,
    }
    return _native.core.batch_norm_backward(**{**right, **given})


def batch_norm_moments(**given: Any) -> Any:
    """What a rank sends of x, (4, 3)."""
    own = torch.zeros(10, dtype=torch.float64)
    right = {"x": torch.ones(4, 3), "threads": 1, "own": own, "tag": 0.0, "workspace": None}
    return _native.core.batch_norm_moments(**{**right, **given})


def merge_moments(*rows: tuple[int, int, int], **given: Any) -> Any:
    """The statistics of three channels of several ranks, each with its channels, tag and count."""
    sent = [[*row, 0, *([0] * 6)] for row in rows or [(3, 0, 4), (3, 0, 2)]]
    right = {
        "x": torch.tensor(sent, dtype=torch.float64),
        "threads": 1,
        "mean": torch.zeros(3),
        "invstd": torch.zeros(3),
        "total": torch.zeros(1, dtype=torch.float64),
        **dict.fromkeys(("running_mean", "running_var", "batches")),
        "momentum": 0.1,
        "eps": 1e-5,
        "tag": 7.0,
        "layer": "norm",
        "rank": 0,
    }
    return _native.core.batch_norm_merge_moments(**{**right, **given})


def row_norm(**given: Any) -> Any:
    """Layer norm of x, (4, 3)."""
    right = {
        "x": torch.ones(4, 3),
        "y": torch.zeros(4, 3),
        "width": 3,
        "mean": torch.zeros(4),
        "invstd": torch.ones(4),
        **dict.fromkeys(("weight", "bias", "residual", "h", "workspace")),
        "eps": 1e-5,
        "dropout": 0.0,
        "seed": 0,
        "threads": 1,
    }
    return _native.core.layer_norm_forward(**{**right, **given})


def row_norm_backward(**given: Any) -> Any:
    """The gradient of x, (4, 3)."""
    right = {
        "x": torch.ones(4, 3),
        "dy": torch.ones(4, 3),
        "dx": torch.zeros(4, 3),
        "width": 3,
        "mean": torch.zeros(4),
        "invstd": torch.ones(4),
        **dict.fromkeys(("dh", "dresidual", "weight", "dweight", "dbias", "workspace")),
        "dropout": 0.0,
        "seed": 0,
        "threads": 1,
    }
    return _native.core.layer_norm_backward(**{**right, **given})


def dropout(**given: Any) -> Any:
    """Dropout of x, (4, 3)."""
    right = {
        "x": torch.ones(4, 3),
        "y": torch.zeros(4, 3),
        "residual": None,
        "p": 0.5,
        "scaling": "inverted",
        "gradient": False,
        "seed": 0,
        "planes": False,
        "shared": False,
        "table": None,
        "threads": 1,
    }
    return _native.core.dropout(**{**right, **given})


def cross_entropy(**given: Any) -> Any:
    """The mean loss of logits x, (4, 3)."""
    right = {
        "x": torch.ones(4, 3),
        "target": torch.zeros(4, dtype=torch.int64),
        "target2": None,
        "lam": 1.0,
        "probabilities": None,
        "weight": None,
        "ignore_index": -100,
        "label_smoothing": 0.0,
        "z_loss": 0.0,
        "reduction": "mean",
        "statistics": False,
        "loss": torch.zeros(1),
        "saved": torch.zeros(8),
        "totals": torch.zeros(_native.core.cross_entropy_totals, dtype=torch.float64),
        "workspace": None,
        "threads": 1,
    }
    return _native.core.cross_entropy_forward(**{**right, **given})


def exponential(x, y) -> None:
    """E to the power of x."""
    _native.core.exponential(x, y, 1)


def probe(reads, writes) -> None:
    """The bandwidth probe."""
    _native.core.probe(reads, writes, 1)


def read_numbers(*tensors) -> None:
    """The reader of small tensors."""
    _native.core.read_numbers(list(tensors))


def probe_taps(source, target, side) -> None:
    """The probe of turned images."""
    _native.core.probe_taps(source, target, side, 1)


def grad_norm(grads, control=None, workspace=None) -> Any:
    """The norm of gradients; workspace: makes float64 memory of a number of elements."""
    control = torch.zeros(_native.core.control_size, dtype=torch.float64) if control is None else control
    workspace = workspace or (lambda elements: torch.zeros(elements, dtype=torch.float64))
    return _native.core.grad_norm("clip_grad_norm_", grads, 2.0, 1.0, None, control, workspace, 1)


def sgd(
    params=None, grads=None, buffers=None, *, lows=None, emas=None, scales=None, tail=None, **options: Any
) -> Any:
    """A step of SGD over parameters of four elements, with momentum where buffers are given."""
    params = [torch.ones(4)] if params is None else params
    right = {
        "lr": 0.5,
        "momentum": 0.0 if buffers is None else 0.9,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
        "capturable": False,
        "precision": None,
    }
    group = ListGroup(params, [torch.ones(4) for _ in params] if grads is None else grads, {**right, **options})
    if buffers is not None:
        group.states, group.first = {"momentum_buffer_list": buffers}, [False] * len(params)
    group.lows, group.emas, group.scales = lows, emas, scales
    if scales is not None:
        group.state_steps = [torch.ones(()) for _ in params]
    return _native.core.sgd.step_lists("sgd", [group], tail, 1)


def precision(mode: str, part: Any = None, *, coded: bool = False) -> dict[str, Any]:
    """The option precision of `sgd`."""
    return {"mode": mode, "seed": 0, "first": 0, "part": part, "coded": coded}


def coded_sgd(codes=None, scales=None, param=None) -> Any:
    """A step of `sgd` whose momentum is kept in 8 bits."""
    param = torch.ones(4) if param is None else param
    codes = torch.zeros(4, dtype=torch.uint8) if codes is None else codes
    scales = torch.zeros(1, 1) if scales is None else scales
    return sgd([param], [param.clone()], [codes], scales=[scales], precision=precision("nearest", coded=True))


def tail(**asked: Any) -> Tail:
    """What follows the gradients in a step of `sgd`."""
    return Tail(memory=TailMemory(torch.device("cpu")), **asked)


def adam(step, device=None, *, capturable=False, second=None) -> Any:
    """A step of Adam over one parameter of four elements.

    step: the count of steps; device: as `on_device` takes it; second: the second moment.
    """

    def make():
        return torch.ones(4) if device is None else on_device(device, torch.ones(4))

    options = {
        "lr": 0.5,
        "beta1": 0.9,
        "beta2": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
        "capturable": capturable,
        "precision": None,
    }
    states = {"exp_avgs": [make()], "exp_avg_sqs": [make() if second is None else second]}
    group = ListGroup([make()], [make()], options, states, state_steps=[step])
    return _native.core.adam.step_lists("adam", [group], None, 1)

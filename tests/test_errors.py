"""Each check of csrc/bind refuses a call, by a message of four parts: function, argument, wanted, got."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest
import torch

import augment_calls
import core_calls as core
from conftest import simt_core
from onepass import _native
from op_checks import BIND, checks

if not BIND.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

CUDA, ROCM = 2, 10  # as DLPack numbers devices
HALF, WIDE = torch.bfloat16, torch.float64


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


def read_only(*shape, dtype=np.float32):
    array = np.ones(shape, dtype)
    array.flags.writeable = False
    return array


def freed():
    tensor = ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


def raises():
    raise OSError("no memory")


class Wrapper(torch.Tensor):
    """A tensor whose memory is another's."""

    @staticmethod
    def __new__(cls):
        return torch.Tensor._make_wrapper_subclass(cls, (4,))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return NotImplemented


def with_core_of_gpus(call):
    """The same call of the core whose kernels for GPUs run on the host, and which takes a CPU for a GPU."""

    def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_native, "core", simt_core())
            call()

    return run


def second_cpu():
    """A tensor that says it is on the CPU of number 1: there are kernels for it, and it is another device."""
    return core.patched(12, ctypes.c_int32, 1)


def too_little_workspace():
    tail = core.tail(max_grad_norm=1.0)
    tail.memory.workspace = lambda _: ones(1, dtype=WIDE)
    core.sgd(tail=tail)


SHARED = ones(8)
# File: literal text of a check: a call that it refuses.
CALLS = {
    "core/layer.cpp": {
        " must have input's shape , got ": lambda: core.dropout(y=ones(5)),
        " must have input's strides, got ": lambda: core.dropout(y=ones(3, 4).t()),
        " must be , got ": lambda: core.cross_entropy(target=ones(4)),
        " must have , got ": lambda: core.batch_norm(momentum=None, batches=torch.tensor([1, 2])),
        " must be dense, got strides  for shape ": lambda: core.batch_norm(mean=ones(6)[::2]),
        " must have  elements, got ": lambda: core.batch_norm(workspace=ones(1, dtype=WIDE)),
        " must be on  like input, got ": lambda: core.dropout(y=core.on_device(CUDA)),
        " must be writable, got a read-only array": lambda: core.dropout(y=read_only(4, 3)),
        " must be  like , got ": lambda: core.batch_norm(mean=ones(3, dtype=WIDE)),
    },
    "core/layer.h": {
        " must be a number or a tensor, got None": lambda: core.dropout(seed=lambda: None),
        " must be 0 to 2**64 - 1, got ": lambda: core.dropout(seed=-1),
    },
    "core/named.cpp": {
        ":  must be given, got no argument of that name": lambda: _native.core.dropout(x=ones(4)),
        ":  must not be given, got one, and this function has no such argument": lambda: core.dropout(q=0.5),
        ":  must be , got ": lambda: core.dropout(p="a half"),
    },
    "core/overlap.cpp": {
        " and  must not share memory, got overlapping storage": lambda: core.sgd([SHARED[:4], SHARED[2:6]]),
    },
    "core/probe.cpp": {
        " must be , got ": lambda: core.probe([ones(4, dtype=WIDE)], [ones(4)]),
        " must be contiguous on the CPU, got one that is not": lambda: core.probe([ones(8)[::2]], [ones(4)]),
        " must have  elements, got ": lambda: core.probe([ones(4)], [ones(5)]),
        "probe_taps: side must be 16 to 4096, got ": lambda: core.probe_taps(ones(4), ones(4), 4),
        "probe: reads must have 1 array and writes 1 to 4, got  and ": lambda: core.probe([], [ones(4)]),
    },
    "core/record.h": {
        ":  must hold , got none": lambda: core.sgd(precision={"mode": "kahan"}),
        " must be a number, got ": lambda: core.sgd(momentum="a"),
        " must be True or False, got ": lambda: core.sgd(nesterov=1),
        ":  must hold  known entries, got ": lambda: core.sgd(amsgrad=True),
    },
    "core/struct_array.h": {
        " must be a dense, writable torch.float64 tensor, got  one": lambda: core.grad_norm([ones(4)], ones(9)),
        " must be on , got ": lambda: core.grad_norm([ones(4)], core.on_device(CUDA, ones(4, dtype=WIDE))),
    },
    "core/target.cpp": {
        " must be on cpu or cuda, got ": lambda: core.dropout(x=core.on_device(ROCM)),
        ": this onepass was built without CUDA; install it where nvcc is found, or with "
        "-C cmake.define.ONEPASS_CUDA=ON to see what is missing; got  on ": lambda: core.dropout(
            x=core.on_device(CUDA)
        ),
    },
    "core/read_numbers.cpp": {
        " must be on cpu, got ": lambda: core.read_numbers(core.on_device(CUDA, ones())),
        " must be contiguous, got strides ": lambda: core.read_numbers(ones(4)[::2]),
        " must be real, got ": lambda: core.read_numbers(ones(dtype=torch.complex64)),
    },
    "core/tensor.cpp": {
        " must be a plain tensor, got , whose memory is not its own (for a DTensor pass its to_local())": (
            lambda: core.sgd([Wrapper()])
        ),
        " must be a torch.Tensor or a numpy.ndarray, got ": lambda: core.sgd([[1.0] * 4]),
        " must be a dense tensor with memory, got ": lambda: core.sgd([ones(4).to_sparse()]),
        " must hold its values as they are, got a view that negates its element (as of x.conj().imag)": (
            lambda: core.sgd([ones(1, dtype=torch.complex64).conj().imag])
        ),
        " must have memory, got  elements whose storage is freed or was never there": lambda: core.sgd([freed()]),
        " must be a dense writable tensor, got ": lambda: core.sgd([core.Producer(raises)]),
        " must be handed over by DLPack 1.x or older, got version ": (
            lambda: core.sgd([core.patched(0, ctypes.c_uint32, 2, (1, 1))])
        ),
        " must be handed over by __dlpack__ as an unused DLPack capsule, got ": (
            lambda: core.sgd([core.Producer(lambda: 5)])
        ),
        " must have at most  dimensions, got ": lambda: core.sgd([core.patched(16, ctypes.c_int32, 65)]),
        " must be torch.float32, torch.float64, torch.bfloat16 or torch.float16, got ": (
            lambda: core.sgd([ones(4, dtype=torch.int64)])
        ),
    },
    "core/draw_places.cpp": {
        ":  must be None or a tuple of numbers, got ": lambda: core.dropout(part=[0, 4, 1]),
        ":  must have a first draw, then sizes and strides of at most  dimensions, got  numbers": (
            lambda: core.dropout(part=(0, 4))
        ),
        (
            ":  must have a first draw from 0 on, sizes and strides from 1 on, and 1 as the last stride, got "
        ): lambda: core.sgd(precision=core.precision("stochastic", (0, 4, 0))),
    },
    "dropout/dropout.cpp": {
        "dropout: part must have  draws, got  in  dimensions": lambda: core.dropout(part=(0, 4, 1)),
        " must be contiguous with a part, got channels last": (
            lambda: core.dropout(x=ones(3, 4).t(), y=ones(3, 4).t(), part=(0, 12, 1))
        ),
        "dropout: p must be from 0 to 1, got ": lambda: core.dropout(p=1.5),
        'dropout: residual must be None with scaling="alpha", got one': (
            lambda: core.dropout(residual=ones(4, 3), scaling="alpha")
        ),
        "dropout: table must be given if and only if planes or shared is True, got ": (
            lambda: core.dropout(shared=True)
        ),
        'dropout: scaling must be "inverted", "test_time" or "alpha", got ""': lambda: core.dropout(
            scaling="beta"
        ),
        " must have at least 2 dimensions, got ": lambda: core.dropout(x=ones(4), planes=True),
        " must have a dimension for the examples, got none": lambda: core.dropout(x=ones(), shared=True),
        " must be contiguous, got strides  for shape ": lambda: core.dropout(x=ones(8)[::2]),
        "dropout: y must be a tensor, got None": lambda: core.dropout(y=None),
    },
    "loss/cross_entropy.cpp": {
        " must be  like input, got ": lambda: core.cross_entropy(weight=ones(3, dtype=WIDE)),
        ": one of target and probabilities must be given, got ": lambda: core.cross_entropy(target=None),
        ': reduction must be "none", "mean" or "sum", got ""': lambda: core.cross_entropy(reduction="max"),
        " must have elements, got shape ": lambda: core.cross_entropy(x=ones(0, 3)),
        " must be contiguous or classes last, got strides  for shape ": (
            lambda: core.cross_entropy(x=ones(4, 6)[:, ::2])
        ),
        "cross_entropy:  must be 0 to  or ignore_index (), got  in row ": (
            lambda: core.cross_entropy(target=torch.tensor([0, 3, 0, 0]))
        ),
        "exponential: x and y must be torch.float32 or torch.float64, got ": (
            lambda: core.exponential(ones(4, dtype=HALF), ones(4, dtype=HALF))
        ),
        "exponential: x and y must be dense and of one size, got  and ": (
            lambda: core.exponential(ones(4), ones(5))
        ),
    },
    "norm/batch_norm.cpp": {
        " must be , got ": lambda: core.batch_norm(weight=ones(3, dtype=HALF)),
        ": batches must be given if and only if momentum is None, got ": lambda: core.batch_norm(momentum=None),
        ': activation must be None or "relu", got ""': lambda: core.batch_norm(activation="gelu"),
        ": dropout must be from 0 to 1, got ": lambda: core.batch_norm(dropout=-0.5),
        ': mask must be given if and only if activation is "relu" and there is a residual, got ': (
            lambda: core.batch_norm(residual=ones(4, 3), activation="relu")
        ),
        " must have  elements, got ": lambda: core.batch_norm_moments(own=ones(9, dtype=WIDE)),
        " must have at least 2 dimensions, got ": lambda: core.batch_norm(x=ones(4)),
        " must have elements, got shape ": lambda: core.batch_norm(x=ones(0, 3)),
        " must be contiguous or channels last, got strides  for shape ": (
            lambda: core.batch_norm(x=ones(4, 6)[:, ::2])
        ),
        "batch_norm: y, mean and invstd must be tensors, got None": lambda: core.batch_norm(y=None),
        "batch_norm: y, running_mean and running_var must be tensors, got None": (
            lambda: core.batch_norm_inference(running_mean=None)
        ),
        "batch_norm_backward: dy, mean and invstd must be tensors, got None": (
            lambda: core.batch_norm_backward(dy=None)
        ),
        'batch_norm_backward: mask must be None unless activation is "relu", got one': (
            lambda: core.batch_norm_backward(mask=ones(2, dtype=torch.uint8))
        ),
    },
    "norm/merge_ranks.cpp": {
        " must be a dense torch.float64 matrix, got  of shape ": lambda: core.merge_moments(x=ones(2, 10)),
        " must have  numbers of each rank, got ": lambda: core.merge_moments(x=ones(2, 9, dtype=WIDE)),
        " on rank : rank  must have  channels there, too, got ": lambda: core.merge_moments((3, 0, 4), (5, 0, 4)),
        " on rank : rank  must be in the same layer, got another layer of  channels": (
            lambda: core.merge_moments((3, 7, 4), (3, 8, 4))
        ),
        " on rank : all ranks together must have more than 1 value per channel in training, got ": (
            lambda: core.merge_moments((3, 7, 1), (3, 7, 0))
        ),
    },
    "norm/row_norm.cpp": {
        " must be a tensor, got None": lambda: core.row_norm(mean=None),
        " must be , got ": lambda: core.row_norm(weight=ones(3, dtype=HALF)),
        ": dropout must be from 0 to 1, got ": lambda: core.row_norm(dropout=-0.5),
        " must have elements, got shape ": lambda: core.row_norm(x=ones(0, 3)),
        " must have rows of width , got  elements": lambda: core.row_norm(width=5),
        " must be contiguous, got strides  for shape ": lambda: core.row_norm(x=ones(3, 4).t()),
        ": y must be a tensor, got None": lambda: core.row_norm(y=None),
        ": h must be given if and only if there is a residual, got ": lambda: core.row_norm(residual=ones(4, 3)),
        ": dropout must be 0 without a residual, got ": lambda: core.row_norm(dropout=0.5),
        ": dy must be a tensor, got None": lambda: core.row_norm_backward(dy=None),
        ": dresidual must be None without dropout, where it is dx, got one": (
            lambda: core.row_norm_backward(dresidual=ones(4, 3))
        ),
    },
    "optim/batch.cpp": {
        " must be writable, got a read-only array": lambda: core.sgd([read_only(4)]),
        " must fill one block of memory, got strides  for shape ": lambda: core.sgd([ones(8)[::2]]),
        " must be , got ": lambda: core.sgd(emas=[ones(4, dtype=WIDE)], tail=core.tail(ema_decay=0.9)),
        " must have , got ": lambda: core.sgd([ones(4, dtype=HALF)], precision=core.precision("kahan")),
        " must be on  like its parameter, got ": lambda: core.sgd(grads=[core.on_device(CUDA)]),
        " must have shape  like its parameter, got ": lambda: core.sgd(grads=[ones(5)]),
        " must have the strides of its parameter, got ": lambda: core.sgd([ones(2, 2)], [ones(2, 2).t()]),
        " must be  like its parameter, got ": lambda: core.sgd(buffers=[ones(4, dtype=WIDE)]),
        " must be  like , got ": lambda: core.adam(ones(), second=ones(4, dtype=HALF)),
        " must be torch.uint8 with states in 8 bits, got ": lambda: core.coded_sgd(ones(4)),
        " must be there with states in 8 bits, got none": lambda: core.sgd(
            buffers=[ones(4, dtype=torch.uint8)], scales=[None], precision=core.precision("nearest", coded=True)
        ),
        " must be where its parameter is, on , got ": lambda: core.coded_sgd(scales=core.on_device(CUDA)),
        " must hold float32 scales, got ": lambda: core.coded_sgd(scales=ones(1, 1, dtype=WIDE)),
        " must be contiguous of shape , got ": lambda: core.coded_sgd(scales=ones(1, 2)),
        " must be torch.float32, torch.bfloat16 or torch.float16 with states in 8 bits, got ": (
            lambda: core.coded_sgd(param=ones(4, dtype=WIDE))
        ),
    },
    "optim/clip.cpp": {
        " must fill one block of memory, got strides  for shape ": lambda: core.grad_norm([ones(8)[::2]]),
        " must be on  like the first, got ": lambda: core.grad_norm([ones(4), core.on_device(CUDA)]),
        " must be writable, got a read-only array": lambda: core.grad_norm([read_only(4)]),
        ": grads must have at least one tensor, got none": lambda: core.grad_norm([]),
        ": workspace must have  elements, got ": lambda: core.grad_norm(
            [ones(4)], None, lambda _: ones(1, dtype=WIDE)
        ),
    },
    "optim/control.h": {
        " must have  elements, got ": lambda: core.grad_norm([ones(4)], ones(100, dtype=WIDE)),
    },
    "optim/family_call.h": {
        " must be on the CPU with states in 8 bits, got ": lambda: core.sgd(
            [core.on_device(CUDA)],
            [core.on_device(CUDA)],
            [core.on_device(CUDA, torch.ones(4, dtype=torch.uint8))],
            scales=[core.on_device(CUDA, torch.ones(1, 1))],
            precision=core.precision("nearest", coded=True),
        ),
    },
    "optim/families.h": {
        ":  must be a list, got ": lambda: core.sgd(params=(ones(4),)),
        ":  must have  entries like params, got ": lambda: core.sgd(grads=[]),
        ":  must be a list of  entries like params, got ": lambda: core.sgd(lows=[]),
    },
    "optim/optim.cpp": {
        " must have one element, got ": lambda: core.sgd(lr=ones(2)),
        " must be torch.float32 or torch.float64, got ": lambda: core.sgd(lr=ones(dtype=HALF)),
        ":  must be a number for parameters on , got a tensor on ": lambda: core.sgd(lr=ones()),
        ":  must be , got ": lambda: core.sgd(lr=-1.0),
    },
    "optim/precision.cpp": {
        ": precision.mode must be stochastic, kahan or master, got ": lambda: core.sgd(
            precision=core.precision("odd")
        ),
        " must be torch.int16, got ": (
            lambda: core.sgd([ones(4, dtype=HALF)], lows=[ones(4)], precision=core.precision("master"))
        ),
        " must be , got ": lambda: core.sgd(
            [ones(4, dtype=HALF)], lows=[ones(4)], precision=core.precision("kahan")
        ),
    },
    "optim/step_count.cpp": {
        " must be on CUDA with , got ": lambda: core.adam(ones(), capturable=True),
        " must be on  like its parameter, got ": lambda: core.adam(ones(), CUDA, capturable=True),
        " must be torch.float32 on a device, got ": (
            lambda: core.adam(core.on_device(CUDA, ones(dtype=WIDE)), CUDA, capturable=True)
        ),
        " must be one torch.float32 or torch.float64, got  of ": lambda: core.adam(ones(2)),
        " must be finite and at least 0, got ": lambda: core.adam(-ones()),
    },
    "optim/tail.cpp": {
        ": workspace must have  elements, got ": with_core_of_gpus(too_little_workspace),
        ": max_grad_norm must be at least 0, got ": lambda: core.sgd(tail=core.tail(max_grad_norm=-1.0)),
        ": grad_scale must be finite and above 0, got ": lambda: core.sgd(tail=core.tail(grad_scale=0.0)),
        ": params must be on one device with max_grad_norm, skip_nonfinite, grad_scale or telemetry, got  and ": (
            lambda: core.sgd([ones(4), second_cpu()], [ones(4), second_cpu()], tail=core.tail(max_grad_norm=1.0))
        ),
    },
}
CALLS |= augment_calls.CALLS
# A GPU whose torch cannot say which stream it is on.
UNREACHED = {("core/tensor.cpp", "the current CUDA stream: ")}
# Who calls the checks of a folder; all call those of core.
FUNCTIONS = {
    "augment": r"augment|augment_masks",
    "augment/augment_draws.cpp": r"Compose",
    "augment/augment_plan.cpp": r"AugmentPlan\.\w+|Compose",
    "augment/numbers.h": r"AugmentPlan\.\w+",
    "core": r"\w+",
    "dropout": r"dropout",
    "loss": r"cross_entropy|exponential",
    "norm": r"batch_norm|batch_norm_backward",
    "norm/row_norm.cpp": r"layer_norm|layer_norm_backward",
    "norm/merge_ranks.cpp": r"SyncBatchNorm|norm on rank 0",
    "optim": r"sgd|adam",
    "optim/clip.cpp": r"clip_grad_norm_",
    "optim/control.h": r"clip_grad_norm_",
}
KINDS = {kind.__name__: kind for kind in (IndexError, RuntimeError, TypeError, ValueError)}
FOUND = list(checks())
PLACES = [(path, text) for path, calls in CALLS.items() for text in calls]


def test_every_check_has_a_call():
    found = [(check.path, check.text) for check in FOUND]
    assert sorted(found) == sorted([*PLACES, *UNREACHED])


def test_every_check_is_found():
    code = [re.sub(r"(?m)//.*$", "", path.read_text()) for path in BIND.rglob("*") if path.is_file()]
    thrown = r"throw (?:ValueError|TypeError|RuntimeError)\("
    assert len(FOUND) == sum(len(re.findall(rf"\bOP_CHECK\(|{thrown}|index_error\(", text)) for text in code)


@pytest.mark.parametrize(("path", "text"), PLACES, ids=[f"{path}:{text.strip()[:40]}" for path, text in PLACES])
def test_check(path, text):
    (check,) = [check for check in FOUND if (check.path, check.text) == (path, text)]
    if "built without CUDA" in text and _native.core.build_info()["cuda"] is not None:
        pytest.skip("onepass was built with CUDA")
    with pytest.raises(KINDS[check.kind]) as raised:
        CALLS[path][text]()
    message = str(raised.value)
    assert type(raised.value) is KINDS[check.kind]
    fitting = [one for one in FOUND if one.path == path and one.pattern.fullmatch(message)]
    # Some messages fit a short check, too: the one that says most of them is the one that raised.
    assert max(fitting, key=lambda one: len(one.text), default=None) == check, message
    function = FUNCTIONS.get(path) or FUNCTIONS[path.split("/")[0]]
    if "built without CUDA" in text:
        assert re.fullmatch(rf"(?:{function}): this onepass .*; got [\w\[\]]+ on cuda:0", message)
    else:
        assert re.fullmatch(rf"(?:{function}): [\w\[\],. ]+ must .+, got .+", message, re.DOTALL)

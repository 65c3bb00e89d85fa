"""The tensor boundary: who may hand memory to the core, how it is given back, and what it holds afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import gc
import sys
import threading
import time

import numpy as np
import pytest
import torch

import onepass
from conftest import apart
from core_calls import Producer, on_device, patched
from onepass import _native, _versions
from onepass.optim import functional
from onepass.optim._lists import run
from onepass.optim._lists.records import ListGroup
from onepass.optim._lists.tail import Tail, TailMemory

SGD = {"lr": 0.5, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}
ADAM = {"lr": 0.5, "beta1": 0.7, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}
ADAM |= {"amsgrad": True, "maximize": False}
RULES = [
    pytest.param("SGD", {"lr": 0.1, "momentum": 0.9}, id="sgd-momentum"),
    pytest.param("Adam", {"lr": 0.1, "amsgrad": True}, id="adam-amsgrad"),
]
NUMPY_DTYPES = [np.float16, np.float32, np.float64]
SHAPES = [(), (0,), (0, 3), (1,), (37,), (4, 5), (2, 1, 3)]


class Fallback(torch.Tensor):
    """A tensor as older versions of torch give it: only through __dlpack__, without the exchange API."""

    __dlpack_c_exchange_api__ = None


@pytest.fixture
def host(backend):
    """Gives the backends whose tensors are on the CPU, as numpy arrays and patched structs are."""
    if backend.name == "cuda":
        pytest.skip("for memory of the CPU only")
    return backend


def random(shape, seed, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize("which", ["params", "grads", "both"])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_dlpack_protocol_has_the_bits_of_the_exchange_api(rule, options, which, backend):
    def as_param(value):
        return torch.nn.Parameter(value.as_subclass(Fallback) if which != "grads" else value)

    twins = [torch.nn.Parameter(random(shape, i, backend.device)) for i, shape in enumerate(SHAPES)]
    params = [as_param(twin.detach().clone()) for twin in twins]
    assert isinstance(params[0], Fallback) == (which != "grads")
    optimizer, other = (getattr(onepass.optim, rule)(each, **options) for each in (params, twins))
    for step in range(3):
        for param, twin in zip(params, twins, strict=True):
            twin.grad = random(twin.shape, step, backend.device)
            param.grad = twin.grad.clone().as_subclass(Fallback if which != "params" else torch.Tensor)
        optimizer.step()
        other.step()
    for param, twin in zip(params, twins, strict=True):
        assert torch.equal(param.as_subclass(torch.Tensor), twin)
        assert param._version == twin._version > 0
        for name, value in other.state[twin].items():
            assert torch.equal(optimizer.state[param][name].as_subclass(torch.Tensor), value), name


@pytest.mark.parametrize("grad_dtype", NUMPY_DTYPES)
@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_numpy_arrays(rule, dtype, grad_dtype, host):
    generator = np.random.default_rng(0)
    kinds = [dtype, grad_dtype, dtype, dtype, dtype]
    arrays = [[np.asarray(generator.random(shape), dtype=kind) for shape in SHAPES] for kind in kinds]
    arrays.append([np.asarray(3.0, dtype=np.float32) for _ in SHAPES])
    for value in arrays[1]:
        value.flags.writeable = False
    before = arrays[0][-1].copy()
    tensors = [[torch.from_numpy(value.copy()) for value in entries] for entries in arrays]
    for lists in (arrays, tensors):
        if rule == "sgd":
            functional.sgd(*lists[:3], **{**SGD, "momentum": 0.9, "nesterov": True})
        else:
            functional.adam(*lists, **ADAM)
    for mine, others in zip(arrays, tensors, strict=True):
        for value, other in zip(mine, others, strict=True):
            np.testing.assert_array_equal(value, other.numpy())
    assert (arrays[0][-1] != before).all()


NO_TENSOR = "must be a torch.Tensor or a numpy.ndarray, got "
# Objects that can be neither a parameter nor a gradient of four elements.
STRANGERS = {
    "none": (lambda: None, TypeError, NO_TENSOR + "NoneType"),
    "list": (lambda: [1.0] * 4, TypeError, NO_TENSOR + "list"),
    "class": (lambda: torch.Tensor, TypeError, NO_TENSOR),
    "numpy-scalar": (lambda: np.float32(1), TypeError, NO_TENSOR + "numpy.float32"),
    "strings": (lambda: np.array(["a"] * 4), TypeError, "must be a dense writable tensor, got BufferError"),
    "swapped-bytes": (lambda: np.ones(4, ">f4"), TypeError, "must be a dense writable tensor, got BufferError"),
    "integers": (lambda: np.ones(4, np.int64), TypeError, "must be torch.float32, .* got torch.int64"),
    "booleans": (lambda: torch.ones(4).bool(), TypeError, "must be torch.float32, .* got torch.bool"),
    "complex": (lambda: np.ones(4, np.complex64), TypeError, "must be torch.float32, .* got torch.complex64"),
    "float8": (
        lambda: torch.ones(4).to(torch.float8_e5m2),
        TypeError,
        "must be torch.float32, .* got DLPack type",
    ),
    "backwards": (lambda: np.ones(4, np.float32)[::-1], ValueError, r"strides .*\(-1,\)"),
    "meta": (lambda: torch.ones(4, device="meta"), TypeError, "must be a dense tensor with memory, got .*meta"),
    "sparse": (lambda: torch.ones(4).to_sparse(), TypeError, "must be a dense tensor with memory, got "),
    "raises": (lambda: Producer(lambda: 1 / 0), TypeError, "ZeroDivisionError: division"),
    "other-device": (lambda: on_device(10), ValueError, "must be on .*DLPack device 10"),
    "lanes": (lambda: patched(22, ctypes.c_uint16, 2), TypeError, "must be torch.float32"),
    "next-version": (lambda: patched(0, ctypes.c_uint32, 2, (1, 1)), TypeError, "must be .*DLPack"),
}


@pytest.mark.parametrize("which", ["params", "grads"])
@pytest.mark.parametrize("name", STRANGERS)
def test_objects_that_are_no_tensors(name, which, backend):
    make, error, message = STRANGERS[name]
    good = [torch.full((4,), 3.0, device=backend.device) for _ in range(3)]
    lists = {"params": good[:2], "grads": [good[2], good[2]]}
    lists[which] = [lists[which][0], make()]
    # The core cannot know which of two devices is the wrong one: it names the gradient.
    where = "grads" if name == "other-device" else which
    with pytest.raises(error, match=rf"^sgd: {where}\[1\].*{message}"):
        functional.sgd(lists["params"], lists["grads"], [], **SGD)
    assert all((value == 3).all() for value in good)


def on_cuda():
    """A tensor that says it is on a GPU."""
    return on_device(2)


def clipped_sgd():
    options = {name: 0.0 for name in ("lr", "momentum", "dampening", "weight_decay")}
    options |= {"nesterov": False, "maximize": False, "capturable": False, "precision": None}
    clips = Tail(max_grad_norm=1.0, memory=TailMemory(torch.device("cpu")))
    _native.core.sgd.step_lists("sgd", [ListGroup([on_cuda()], [on_cuda()], options)], clips, 1)


CALLS = [
    ("sgd", lambda: functional.sgd([on_cuda()], [on_cuda()], [], **SGD)),
    ("sgd", clipped_sgd),
    ("adam", lambda: functional.adam(*[[on_cuda()] for _ in range(5)], [torch.tensor(3.0)], **ADAM)),
    ("adamw", lambda: functional.adamw(*[[on_cuda()] for _ in range(5)], [torch.tensor(3.0)], **ADAM)),
    ("clip_grad_value_", lambda: _native.core.grad_clamp("clip_grad_value_", [on_cuda()], 1.0, 1)),
    ("batch_norm", lambda: _native.core.batch_norm_workspace(x=on_cuda())),
    ("cross_entropy", lambda: _native.core.cross_entropy_workspace(x=on_cuda(), threads=1, statistics=True)),
    ("exponential", lambda: _native.core.exponential(on_cuda(), on_cuda(), 1)),
]


@pytest.mark.skipif(_native.core.build_info()["cuda"] is not None, reason="onepass was built with CUDA")
@pytest.mark.parametrize(("function", "call"), CALLS, ids=["sgd", "sgd-clipped", *[name for name, _ in CALLS[2:]]])
def test_build_without_cuda_names_the_function(function, call):
    with pytest.raises(RuntimeError, match=rf"^{function}: this onepass was built without CUDA; install it where"):
        call()


def test_read_only_memory_may_be_read():
    param, array = torch.zeros(4), np.ones(4, np.float32)
    array.flags.writeable = False
    functional.sgd([param], [array], [], **SGD)
    for lists in ([[array], [torch.ones(4)], [torch.zeros(4)]], [[param], [torch.ones(4)], [array]]):
        with pytest.raises(ValueError, match=r"\[0\] must be writable, got a read-only array"):
            functional.sgd(*lists, **{**SGD, "momentum": 0.9})
    assert (param == -0.5).all()
    assert (array == 1).all()


def test_memory_that_torch_would_not_make(host):
    """Addresses that are no multiple of the element's size, structs without strides, structs with an offset."""
    param, grad = (np.zeros(17, np.uint8)[1:].view(np.float32) for _ in "ab")
    param[:], grad[:] = (1, 2, 3, 4), (2, 4, 6, 8)
    assert not param.flags.aligned
    functional.sgd([param], [grad], [], **SGD)
    assert param.tolist() == [0, 0, 0, 0]
    functional.sgd([param], [patched(32, ctypes.c_void_p, None)], [], **SGD)
    assert param.tolist() == [-0.5, -1, -1.5, -2]
    functional.sgd([param], [patched(40, ctypes.c_uint64, 16)], [], **SGD)
    assert param.tolist() == [-3, -4, -5, -6]


def used_capsule():
    capsule = torch.ones(4).__dlpack__()
    torch.from_dlpack(capsule)
    return capsule


RUBBISH = {
    "none": lambda: None,
    "number": lambda: 5,
    "used": used_capsule,
    "foreign": lambda: datetime.datetime_CAPI,
}


def step_with_rubbish(name, which):
    lists = {"params": [torch.ones(4)], "grads": [torch.ones(4)]}
    lists[which] = [Producer(RUBBISH[name])]
    try:
        functional.sgd(lists["params"], lists["grads"], [], **SGD)
    except TypeError as error:
        print(error)


@pytest.mark.parametrize("which", ["params", "grads"])
@pytest.mark.parametrize("name", RUBBISH)
def test_dlpack_that_returns_rubbish(name, which):
    """A pointer from an object that is no capsule, or from a used one, is null."""
    assert f"sgd: {which}[0] must be" in apart("test_boundary", f"step_with_rubbish({name!r}, {which!r})")


@pytest.mark.parametrize("length", [4, 3], ids=["accepted", "rejected"])
def test_owners_are_released(length, host):
    arrays = [np.ones(4, np.float32), np.ones(length, np.float32)]
    counts = [sys.getrefcount(array) for array in arrays]
    tensors = [torch.from_numpy(array).as_subclass(Fallback) for array in arrays]
    for param, grad in (arrays, tensors):
        for _ in range(3):
            with contextlib.nullcontext() if length == 4 else pytest.raises(ValueError, match="shape"):
                functional.sgd([param], [grad], [], **SGD)
    del param, grad, tensors
    gc.collect()
    assert [sys.getrefcount(array) for array in arrays] == counts


def test_the_lock_of_the_interpreter_is_released(host):
    rows = [[torch.ones(2**24 if host.name == "cpu" else 2**18)] for _ in range(5)]
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0)

    worker = threading.Thread(target=tick)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a processor core for each
    worker.start()
    begin = time.perf_counter()
    functional.adam(*rows, [torch.tensor(3.0)], **ADAM)
    end = time.perf_counter()
    done.set()
    worker.join()
    torch.set_num_threads(threads)
    quarter = 0.25 * (end - begin)
    assert sum(begin + quarter < at < end - quarter for at in ticks) > 10


@pytest.mark.parametrize("bump", [_versions.bump_versions, _versions._bump_one_by_one], ids=["list", "one-by-one"])
def test_versions_count_writes(bump, monkeypatch):
    """torch 2.4 increments the version of one tensor at a time."""
    monkeypatch.setattr(run, "bump_versions", bump)
    params = [torch.ones(4), np.ones(4, np.float32), torch.ones(2)]
    functional.sgd(params, [torch.ones(4), torch.ones(4), torch.ones(2)], [], **SGD)
    assert (params[0]._version, params[2]._version) == (1, 1)

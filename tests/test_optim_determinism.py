"""The same bits again, with any number of threads, however the elements are cut, on each ISA and backend."""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import onepass
from conftest import simt_core
from onepass import _native

# Cuts of the CPU's chunks (16 Ki elements at least), of the GPU's (at most 64 Ki), of rows (512) and of vectors.
SIZES = (16383, 1, 16384, 0, 16385, 511, 65539, 7, 300_007)
# What the CUDA kernels can do on the host in a second, chunks of 1024 and 2048 elements.
SMALL_SIZES = (1023, 1, 1025, 0, 4095, 2049, 7)
OPTIONS = [
    pytest.param("SGD", {"weight_decay": 0.1, "maximize": True}, id="sgd"),
    pytest.param("SGD", {"momentum": 0.9, "dampening": 0.3}, id="sgd-dampening"),
    pytest.param("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="sgd-nesterov"),
    pytest.param("Adam", {"weight_decay": 0.1, "maximize": True}, id="adam"),
    pytest.param("Adam", {"amsgrad": True, "eps": 1e-3}, id="adam-amsgrad"),
    pytest.param("AdamW", {"betas": (0.7, 0.95)}, id="adamw"),
    pytest.param("AdamW", {"amsgrad": True, "maximize": True}, id="adamw-amsgrad"),
    pytest.param("Lion", {"weight_decay": 0.1, "maximize": True}, id="lion"),
]
# Parameter, gradient and states.
STORED = [
    pytest.param((torch.float32, torch.float32, torch.float32), id="float32"),
    pytest.param((torch.float64, torch.float64, torch.float64), id="float64"),
    pytest.param((torch.bfloat16, torch.bfloat16, torch.bfloat16), id="bfloat16"),
    pytest.param((torch.float16, torch.float16, torch.float16), id="float16"),
    pytest.param((torch.bfloat16, torch.float32, torch.float32), id="bfloat16-rest-float32"),
    pytest.param((torch.float16, torch.bfloat16, torch.float32), id="float16-bfloat16-float32"),
    pytest.param((torch.float64, torch.bfloat16, torch.float64), id="float64-grads-bfloat16"),
]


@pytest.fixture
def threads():
    """Sets torch's number of threads for the test alone."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def with_states(rule, options, stored, sizes, device="cpu"):
    """Parameters with random values and states, two groups, and their optimizer."""
    generator = torch.Generator().manual_seed(0)
    dtype, _, state_dtype = stored

    def random(n, wanted):
        return torch.randn(n, generator=generator).to(device, wanted)

    params = [torch.nn.Parameter(random(n, dtype)) for n in sizes]
    half = len(params) // 2
    groups = [{"params": params[:half]}, {"params": params[half:], "lr": 0.05}]
    optimizer = getattr(onepass.optim, rule)(groups, **{"lr": 0.02, **options})
    names = ["momentum_buffer"] if "momentum" in options else []
    if rule != "SGD":
        names = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"][: 1 if rule == "Lion" else 2 + ("amsgrad" in options)]
    for param in params if names else []:
        own = {name: random(param.numel(), state_dtype).abs() for name in names}
        optimizer.state[param] = {"step": torch.tensor(7.0), **own} if rule.startswith("Adam") else own
    return params, optimizer


def train_in(params, optimizer, grad_dtype, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for param in params:
            param.grad_dtype = None
            param.grad = torch.randn(param.shape, generator=generator).to(param.device, grad_dtype)
        optimizer.step()


def all_bits(params, optimizer):
    """All parameters and states, joined by name."""
    found = {"param": torch.cat([param.detach().flatten() for param in params])}
    for name in optimizer.state[params[0]]:
        found[name] = torch.cat([optimizer.state[param][name].flatten() for param in params])
    return {name: value.cpu() for name, value in found.items()}


def result(rule, options, stored, sizes, device="cpu"):
    params, optimizer = with_states(rule, options, stored, sizes, device)
    train_in(params, optimizer, stored[1])
    return all_bits(params, optimizer)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        # nan would hide a difference from itself; there must be none.
        assert value.isfinite().all(), name
        differ = (value != second[name]).nonzero()
        assert differ.numel() == 0, f"{name}: {len(differ)} of {len(value)} differ, first {differ[0].item()}"


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_number_of_threads(rule, options, stored, threads):
    threads(1)
    wanted = result(rule, options, stored, SIZES)
    for count in (1, 2, 3, 7):
        threads(count)
        assert_same(result(rule, options, stored, SIZES), wanted)


def cut(value, at):
    return [value[begin:end] for begin, end in itertools.pairwise(at)]


def cut_optimizer(params, optimizer, options, at):
    """The same optimizer over pieces of its one parameter and of its states."""
    pieces = [torch.nn.Parameter(piece) for piece in cut(params[0].detach().clone(), at)]
    twin = type(optimizer)(pieces, **{**options, "lr": optimizer.param_groups[-1]["lr"]})
    for name, value in optimizer.state.get(params[0], {}).items():
        values = [value.clone() for _ in pieces] if name == "step" else cut(value.clone(), at)
        for piece, part in zip(pieces, values, strict=True):
            twin.state[piece][name] = part
    return pieces, twin


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_where_the_list_is_cut(rule, options, stored, backend, threads):
    """The same elements in one tensor and in many, which begin anywhere, give the same bits."""
    threads(3)
    at = [0, 1, 2, 65, 700, 2747, 2747, 5000, 7000]
    if backend.name != "simt":
        at += [21_384, 21_385, 38_000, 40_000]
    params, optimizer = with_states(rule, options, stored, at[-1:], backend.device)
    pieces, twin = cut_optimizer(params, optimizer, options, at)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        grad = torch.randn(at[-1], generator=generator).to(backend.device, stored[1])
        for param, own in zip([*params, *pieces], [grad, *cut(grad, at)], strict=True):
            param.grad_dtype = None
            param.grad = own
        optimizer.step()
        twin.step()
    whole, joined = all_bits(params, optimizer), all_bits(pieces, twin)
    for counted in (whole, joined):
        counted.pop("step", None)
    assert_same(joined, whole)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_run_again(rule, options, stored, backend):
    sizes = SMALL_SIZES if backend.name == "simt" else SIZES
    assert_same(*(result(rule, options, stored, sizes, backend.device) for _ in "ab"))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_cuda_kernels_have_the_bits_of_the_cpu_kernels(rule, options, stored, monkeypatch):
    """Compiled for the host; whether nvcc rounds alike only a GPU can tell."""
    wanted = result(rule, options, stored, SMALL_SIZES)
    monkeypatch.setattr(_native, "core", simt_core())
    assert_same(result(rule, options, stored, SMALL_SIZES), wanted)


def test_cuda_kernels_have_the_bits_of_the_cpu_kernels_in_large_tensors(monkeypatch):
    rule, options, stored = "AdamW", {}, (torch.bfloat16, torch.float32, torch.float32)
    wanted = result(rule, options, stored, (65_539, 16_385))
    monkeypatch.setattr(_native, "core", simt_core())
    assert_same(result(rule, options, stored, (65_539, 16_385)), wanted)


def digest() -> str:
    """One number for the results of all options and dtypes."""
    found = hashlib.sha256()
    for _, options in ((p.id, p.values) for p in OPTIONS):
        for stored in STORED:
            for value in result(*options, stored.values[0], SMALL_SIZES).values():
                found.update(value.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_every_isa():
    """ONEPASS_ISA is read when the core is loaded, so each has a process of its own."""
    found = {}
    for isa in _native.core.build_info()["isa_compiled"]:
        paths = [str(Path(__file__).parent), *sys.path]
        done = subprocess.run(
            [sys.executable, "-c", "import test_optim_determinism as t; print(t.digest())"],
            env={**os.environ, "ONEPASS_ISA": isa, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=False,
        )
        if "does not run on this processor" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        found[isa] = done.stdout.strip()
    assert "baseline" in found
    assert set(found.values()) == {digest()}, found


@pytest.mark.parametrize(("rule", "options"), OPTIONS)
def test_two_threads_with_an_optimizer_each(rule, options):
    stored = (torch.float32,) * 3
    runs = [with_states(rule, options, stored, (70_001, 16, 0, 5)) for _ in "ab"]
    serial = copy.deepcopy(runs[0])
    train_in(*serial, torch.float32, steps=20)
    failures = []
    start = threading.Barrier(2)

    def work(params, optimizer):
        try:
            start.wait(timeout=30)
            train_in(params, optimizer, torch.float32, steps=20)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=run) for run in runs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not failures
    for run in runs:
        assert_same(all_bits(*run), all_bits(*serial))

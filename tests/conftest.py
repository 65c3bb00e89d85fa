"""Options and fixtures of all tests: the backends that run the kernels, and tests that need a large machine.

Backends: `cpu` is the installed package; `simt` the CUDA kernels executed on host memory by onepass._core_simt,
a module built only for tests; `cuda` a GPU.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from onepass import _freed_memory, _native

BACKENDS = ("cpu", "simt", "cuda")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--large", action="store_true", help="also run tests that need tens of GiB or minutes")


def pytest_configure() -> None:
    """Shares the cores among the processes of pytest-xdist: threads of more than there are wait for each other."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, (os.cpu_count() or 1) // processes)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that tests start
        torch.set_num_threads(threads)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--large"):
        return
    for item in items:
        if "large" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs tens of GiB or minutes: run with --large"))


@pytest.fixture(scope="module", autouse=True)
def nothing_compiled() -> None:
    """Lets each file begin without compiled code: what a file before it compiled counts towards torch's limits."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@dataclass(frozen=True)
class Backend:
    """Says where a test puts its tensors, and which kernels update them there."""

    name: str
    device: torch.device

    @property
    def is_cuda_code(self) -> bool:
        """Whether the CUDA kernels run, on a GPU or on the host."""
        return self.name != "cpu"


def simt_core() -> object:
    """Returns the module that runs the CUDA kernels on the host; skips the test where it was not built."""
    try:
        return importlib.import_module("onepass._core_simt")
    except ImportError as error:
        if os.environ.get("ONEPASS_REQUIRE_SIMT") == "1":
            pytest.fail(f"ONEPASS_REQUIRE_SIMT=1, but onepass._core_simt does not load: {error}")
        pytest.skip(
            "onepass._core_simt was not built: install with --config-settings=cmake.define.ONEPASS_SIMT=ON"
        )


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Gives each backend in turn; skips those that the machine lacks, with the reason."""
    name: str = request.param
    if name == "simt":
        monkeypatch.setattr(_native, "core", simt_core())
    if name == "cuda" and not (torch.cuda.is_available() and _native.core.build_info()["cuda"]):
        pytest.skip("no CUDA GPU, or onepass was built without CUDA")
    return Backend(name, torch.device("cuda" if name == "cuda" else "cpu"))


@pytest.fixture(autouse=True)
def malloc_as_it_was() -> Iterator[None]:
    """Takes back what a test, or an example of a page, has left of `keep_freed_memory`: it is the process's."""
    yield
    for kept in list(_freed_memory._active):
        kept.revert()


def apart(module: str, *code: str) -> str:
    """Runs code with a test module's names in its own process, which must not crash; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([f"from {module} import *", *code])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout

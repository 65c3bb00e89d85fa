"""Runs the `onepass` command with the CUDA kernels executed on host memory: a rehearsal of what a GPU would run.

    python benchmarks/gpu/on_host.py parity optim --steps 2

Needs onepass._core_simt, which is built with --config-settings=cmake.define.ONEPASS_SIMT=ON.
"""

from __future__ import annotations

import importlib

from onepass import _native
from onepass.cli.app import main


def use_host_kernels() -> None:
    """Exchanges the core for the one that runs the CUDA kernels on the host."""
    _native.core = importlib.import_module("onepass._core_simt")


if __name__ == "__main__":
    use_host_kernels()
    main()

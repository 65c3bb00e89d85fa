"""Sessions for contributors; CI runs the same scripts. `nox` runs them all, `nox -s lint` one."""

import json
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
TORCH = "torch==2.13.0"
PEERS = json.loads(Path(__file__).with_name("benchmarks").joinpath("peers.json").read_text())


@nox.session
def tests(session: nox.Session) -> None:
    """The Python tests, with the CUDA kernels executed on the host where CUDA headers are found."""
    session.install(TORCH)
    session.install(".[test]", "--config-settings=cmake.define.ONEPASS_SIMT=AUTO")
    session.run("python", "-m", "pytest", "tests", *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """Training programs of other packages with ours in them; docs/clients.md lists them."""
    session.install(TORCH)
    session.install(".[test]", "--config-settings=cmake.define.ONEPASS_CUDA=OFF")
    session.run("bash", ".ci/clients", *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint and types."""
    session.install(TORCH)
    session.install(".[dev]", "--config-settings=cmake.define.ONEPASS_CUDA=OFF")
    session.run("bash", ".ci/lint", external=True)


@nox.session
def cuda(session: nox.Session) -> None:
    """The CUDA build, warnings as errors."""
    session.install("pybind11>=3", "cmake", "ninja")
    session.run("bash", ".ci/cuda", "build/cuda", external=True)


@nox.session
def simt(session: nox.Session) -> None:
    """The CUDA kernels on the host: plain, sanitizers, race detector."""
    session.install("cmake", "ninja")
    session.run("bash", ".ci/simt", "build/simt", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, into build/docs; warnings are errors."""
    session.install(TORCH)
    session.install(".", "--config-settings=cmake.define.ONEPASS_CUDA=OFF")
    session.run("bash", ".ci/docs", "build/docs", external=True)


@nox.session(default=False)
@nox.parametrize("peer", list(PEERS), ids=list(PEERS))
def peers(session: nox.Session, peer: str) -> None:
    """Traps, accuracy and speed of another package's optimizers; docs/peers.md shows them."""
    # Without their dependencies: they name a torch whose wheel may be another than the pinned one.
    session.install(f"torch=={PEERS[peer]['torch']}", *PEERS[peer]["requirements"])
    session.install(".", "--config-settings=cmake.define.ONEPASS_CUDA=OFF")
    if PEERS[peer]["no_deps"]:
        session.install("--no-deps", "--no-build-isolation", *PEERS[peer]["no_deps"])
    session.run("python", "benchmarks/peers.py", peer, *session.posargs)


@nox.session(default=False)
def docs_browser(session: nox.Session) -> None:
    """Looks at the site in build/docs with Chromium, which must be installed, as wide as a desk and as a phone."""
    session.install("playwright==1.65.2")
    session.run("python", "docs/_site/browser.py", *session.posargs)

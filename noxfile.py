"""Sessions for contributors; CI runs the same scripts. `nox` runs them all, `nox -s lint` one."""

import json
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
TORCH = "torch==2.13.0"
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
# The versions of torch that the wheels are run with, and for each the pairs of Python and numpy.
TORCHES = {
    "2.4.1": [("3.10", "1.26"), ("3.12", "2")],
    "2.6.0": [("3.10", "1.26"), ("3.13", "2")],
    "2.8.0": [("3.11", "1.26"), ("3.13", "2")],
    "2.10.0": [("3.10", "2"), ("3.12", "1.26")],
    "2.13.0": [("3.11", "1.26"), ("3.13", "2")],
    "2.14.1": [("3.10", "1.26"), ("3.12", "2")],
    "2.15.0": [("3.11", "1.26"), ("3.13", "2")],
}
OLDEST, NEWEST = next(iter(TORCHES)), next(reversed(TORCHES))
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
def threads(session: nox.Session) -> None:
    """The CPU kernels in several threads, under ThreadSanitizer."""
    session.install("cmake", "ninja")
    session.run("bash", ".ci/threads", "build/threads", external=True)


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
def augment_bench(session: nox.Session) -> None:
    """Augmentation next to torchvision, OpenCV, Albumentations and Kornia: tests, parity, pictures, benchmark."""
    session.install(TORCH)
    session.install(".[test]", "--config-settings=cmake.define.ONEPASS_CUDA=OFF")
    session.install("--no-deps", "-r", "benchmarks/augment_rivals.txt")
    session.run("python", "-m", "pytest", "tests", "-q", "-k", "augment", "-p", "no:cacheprovider")
    session.run("onepass", "parity", "augment")
    session.run("python", "benchmarks/augment_pictures.py", "--output", session.create_tmp())
    session.run("onepass", "bench", "augment", *session.posargs)


@nox.session(default=False)
def docs_browser(session: nox.Session) -> None:
    """Looks at the site in build/docs with Chromium, which must be installed, as wide as a desk and as a phone."""
    session.install("playwright==1.65.2")
    session.run("python", "docs/_site/browser.py", *session.posargs)


@nox.session(default=False)
def report_browser(session: nox.Session) -> None:
    """Makes a report and pages of optimizers and landscapes; tries all of their controls with Chromium and axe."""
    folder = Path(session.create_tmp()).resolve()
    session.install(TORCH)
    session.install(".[demo,visualize]", "--config-settings=cmake.define.ONEPASS_CUDA=OFF")
    session.install("playwright==1.65.2")
    session.run("npm", "install", "--silent", "--prefix", str(folder / "npm"), "axe-core@4.14.1", external=True)
    session.run("python", "tests/browser/make.py", str(folder / "pages"))
    axe = folder / "npm" / "node_modules" / "axe-core" / "axe.min.js"
    session.run("python", "tests/browser/look.py", str(folder / "pages"), str(axe), *session.posargs)


@nox.session(default=False)
def gpu_check(session: nox.Session) -> None:
    """The device check, rehearsed without a GPU: its stages run the CUDA kernels on the host."""
    session.install(TORCH)
    session.install(".[test]", "--config-settings=cmake.define.ONEPASS_SIMT=ON")
    session.run("benchmarks/gpu/check", "--rehearse", "--output", "build/gpu-check", external=True)


@nox.session(python=PYTHONS, default=False)
def wheels(session: nox.Session) -> None:
    """The sdist and the wheels of this machine's Pythons, into dist/, checked; with CUDA where nvcc is found."""
    options = session.posargs or ["--config-settings=cmake.define.ONEPASS_CUDA_ARCHITECTURES=ALL"]
    session.run("bash", ".ci/wheel", "dist", "twice", *options, external=True)


@nox.session(default=False)
def wheel_clean(session: nox.Session) -> None:
    """The wheel without a compiler: `onepass demo` and the smoke suite on the oldest and the newest torch."""
    for version in (OLDEST, NEWEST):
        _on_torch(session, version, "2", "--demo", "2")


def _on_torch(session: nox.Session, version: str, numpy: str, *options: str) -> None:
    """Runs the wheel of dist/ for the session's Python with a torch and a numpy, in a temporary environment."""
    tag = session.run("python", "-c", "import sys; print('cp%d%d' % sys.version_info[:2])", silent=True)
    found = sorted(Path("dist").glob(f"onepass-*-{tag.strip()}-*.whl"))
    if not found:
        session.error(f"dist/ holds no wheel for {tag.strip()}: run nox -s wheels")
    given = ["--torch", version, "--numpy", numpy, *options, *session.posargs]
    session.run("python", "benchmarks/torch_matrix.py", str(found[-1]), *given)


def _torch_session(version: str, pairs: list[tuple[str, str]]) -> None:
    """Makes the session torch-MAJOR.MINOR: the smoke suite on dist's wheels with each pair of Python and numpy."""

    @nox.session(name=f"torch-{version.rpartition('.')[0]}", default=False)
    @nox.parametrize("python,numpy", pairs)
    def on_torch(session: nox.Session, numpy: str) -> None:
        """The smoke suite on a wheel of dist/, with this torch and each pair of Python and numpy."""
        _on_torch(session, version, numpy)


for _version, _pairs in TORCHES.items():
    _torch_session(_version, _pairs)

"""Runs `onepass parity` and `onepass bench` on a peer's optimizers, and writes benchmarks/results/peers/NAME.json.

    python benchmarks/peers.py optimi

`peers.json` names the peers, the versions they are pinned to, and their optimizers. `nox -s peers` makes an
environment for each and calls this. The package itself must be installed; so must onepass.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from onepass.bench import machine

PEERS = Path(__file__).with_name("peers.json")
RESULTS = Path(__file__).parent / "results" / "peers"
# One case that memory bounds, one that many small tensors bound, and one in between.
SIZES = ("4x16M", "1000x1024", "200x65536")

# What is measured of a peer. The times need a machine at rest; the accuracy does not.
PARTS = ("parity", "bench")
NOT_RUN = {"failed": "was not run"}
# One that compiles a kernel for each shape takes minutes.
SECONDS = 1500


class PeerError(Exception):
    """Says why a peer cannot be measured here."""


def peers() -> dict[str, dict[str, Any]]:
    """Reads the list of peers."""
    found: dict[str, dict[str, Any]] = json.loads(PEERS.read_text())
    return found


def pins(peer: dict[str, Any]) -> dict[str, str]:
    """The version of each package that the peer's figures are of."""
    pinned = dict(one.split("==") for one in peer["no_deps"] if "==" in one)
    return {"torch": peer["torch"], **pinned}


def installed(peer: dict[str, Any]) -> dict[str, str]:
    """The versions that are installed.

    Raises:
        PeerError: One is missing, or is another than the pinned one.
    """
    found = {}
    for package, wanted in pins(peer).items():
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise PeerError(f"{package} must be installed as {wanted}, got no {package}") from None
        if found[package].partition("+")[0] != wanted:
            raise PeerError(f"{package} must be {wanted}, got {found[package]}")
    return found


def run(arguments: list[str], output: Path, **environment: str) -> dict[str, Any]:
    """Runs the command, which may find faults (1), and returns the file that it writes.

    Args:
        arguments: Arguments of `onepass`.
        output: The file that they name.
        environment: Environment variables.

    Returns:
        Its content; where the command wrote none, ``command`` and the end of what it printed as ``failed``.
    """
    command = {"command": " ".join(["onepass", *arguments])}
    output.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "onepass", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        return {**command, "failed": f"did not end within {SECONDS} s"}
    print(done.stdout, flush=True)
    if done.returncode not in (0, 1) or not output.exists():
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return {**command, "failed": lines[-1] if lines else f"exit code {done.returncode}"}
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def parity(implementation: list[str], folder: Path, steps: int) -> dict[str, Any]:
    """Measures the accuracy of one implementation, and runs the traps on it."""
    output = folder / "parity.json"
    impl, *kwargs = implementation
    words = [word for one in kwargs for word in ("--kwargs", one)]
    words += ["--steps", str(steps), "--json", str(output)]
    # The tensors are small: a second thread would only wait.
    return run(["parity", "optim", "--impl", impl, *words], output, OMP_NUM_THREADS="1")


def name_in_bench(implementation: list[str]) -> str:
    """What the implementation is called in a file of `onepass bench`."""
    impl, *kwargs = implementation
    return f"{impl}({', '.join(kwargs)})" if kwargs else impl


def bench(peer: dict[str, Any], folder: Path, rounds: int | None, sizes: list[str]) -> dict[str, Any]:
    """Times all implementations of the peer in one interleaved run."""
    output = folder / "bench.json"
    rules = sorted({"sgd" if ":SGD" in one[0] else "adamw" for one in peer["implementations"].values()})
    words = [word for rule in rules for size in sizes for word in ("--case", f"{rule}-{size}")]
    for one in peer["implementations"].values():
        words += ["--impl", name_in_bench(one)]
    options = ["--tolerance", str(peer["tolerance"]), "--rounds", str(rounds or peer["rounds"])]
    return run(["bench", "optim", *words, *options, "--output", str(output)], output)


def measure(
    name: str, parts: Sequence[str], before: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Measures one peer.

    Args:
        name: Its name in the list.
        parts: What is measured, of `PARTS`.
        before: Content of the file that is replaced; the other parts are taken from it.
        options: Rounds, steps and sizes.

    Raises:
        PeerError: It is no peer of the list, or is not installed as pinned.
    """
    known = peers()
    if name not in known:
        raise PeerError(f"NAME must be one of {', '.join(known)}, got {name}")
    peer = known[name]
    versions = installed(peer)
    if before.get("installed", versions) != versions:
        before = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        implementations = {}
        for label, one in peer["implementations"].items():
            kept = before.get("implementations", {}).get(label, {}).get("parity", NOT_RUN)
            found = parity(one, folder, options.steps) if "parity" in parts else kept
            implementations[label] = {"implementation": name_in_bench(one), "parity": found}
        timed = (
            bench(peer, folder, options.rounds, options.sizes)
            if "bench" in parts
            else before.get("bench", NOT_RUN)
        )
    return {
        **machine.record(torch.get_num_threads()),
        "command": " ".join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        "peer": name,
        "package": peer["package"],
        "installed": versions,
        "implementations": implementations,
        "bench": timed,
    }


def main() -> int:
    """Writes the JSON of one peer; 1 where it cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="a peer of peers.json")
    parser.add_argument("--only", choices=PARTS, help="measure only this, and keep the rest of the file")
    parser.add_argument("--rounds", type=int, help="time each case this many times")
    parser.add_argument("--steps", type=int, default=20, help="take this many steps for the accuracy")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), help="time cases of these sizes")
    parser.add_argument("--output", type=Path, help="write to this file")
    options = parser.parse_args()
    output = options.output or RESULTS / f"{options.name}.json"
    before = json.loads(output.read_text()) if options.only and output.exists() else {}
    try:
        found = measure(options.name, [options.only] if options.only else PARTS, before, options)
    except PeerError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes what torchvision gives for the cases of tests/test_augment_torchvision.py.

    python tests/data/augment_torchvision.py

It needs onepass, pytest and torchvision (``pip install --no-deps torchvision==0.29.1 pillow`` next to torch
2.14.1). The file next to it is named by torchvision's version. It holds the versions, the command, and every third
pixel of the first sample of each case.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from augment_setup import image, torchvision  # noqa: E402  # from the folder of the tests
from onepass import augment as A  # noqa: E402
from test_augment_torchvision import COLOR, GEOMETRY, IDS, parameters  # noqa: E402

SIZE = (24, 26)


def cases():
    """Yields name, transform and torchvision's function of all cases."""
    for name, (make, call, *_) in {**GEOMETRY, **COLOR}.items():
        yield name, make(), call


def main() -> None:
    version = torchvision("torchvision").__version__
    images = image(len(IDS), 3, *SIZE)
    found = {}
    for name, transform, call in cases():
        drawn = next(parameters(A.Compose([transform], seed=0, layout="NCHW"), SIZE))
        found[name] = call(images[0].double(), drawn, transform)[:, ::3, ::3].float().numpy()
    record = f"torchvision {version}, torch {torch.__version__}, python tests/data/augment_torchvision.py"
    np.savez_compressed(HERE / f"augment_torchvision-{version.partition('+')[0]}.npz", record=record, **found)


if __name__ == "__main__":
    main()

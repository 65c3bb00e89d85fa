"""Each transform gives what a later torchvision gave, which need not be installed: tests/data has its values."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from augment_setup import exact, image
from data.augment_torchvision import HERE, SIZE, cases
from onepass import augment as A
from test_augment_torchvision import IDS
from tolerance import IMAGE_FILTER_ATOL, IMAGE_PERSPECTIVE_ATOL

FILES = sorted(HERE.glob("augment_torchvision-*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", [name for name, _, _ in cases()])
def test_values_are_those_of_torchvision(name, path):
    transform = next(one for known, one, _ in cases() if known == name)
    train = A.Compose([transform], seed=0, layout="NCHW")
    images = image(len(IDS), 3, *SIZE)[:1]
    wanted = torch.from_numpy(np.load(path)[name]).double()
    tolerance = IMAGE_PERSPECTIVE_ATOL if name == "perspective" else IMAGE_FILTER_ATOL
    for made in (exact(train, images, ids=IDS[:1]), train(images, ids=IDS[:1]).double()):
        torch.testing.assert_close(made[0, :, ::3, ::3], wanted, rtol=0, atol=tolerance)


def test_files_say_where_they_come_from():
    assert FILES
    for path in FILES:
        record = str(np.load(path)["record"])
        assert re.fullmatch(r"torchvision \d+\.\d+\.\d+\S*, torch \d+\.\d+\.\d+\S*, python tests/data/\S+", record)

"""A device or a place to write to that a command cannot have is refused at once, by name."""

import os
from types import SimpleNamespace

import pytest
import torch

import onepass
from test_cli import run


@pytest.mark.parametrize(
    ("sees_gpu", "built", "lacks"),
    [
        (False, "13.0", "torch sees no GPU"),
        (True, None, "onepass was built without CUDA"),
        (False, None, "torch sees no GPU and onepass was built without CUDA"),
    ],
    ids=["gpu", "core", "both"],
)
@pytest.mark.parametrize(
    ("command", "option"),
    [(("bench", "optim", "--quick"), "device"), (("parity", "optim"), "device"), (("demo",), "device")],
    ids=["bench", "parity", "demo"],
)
def test_cuda_is_refused_at_once_by_what_is_missing(command, option, sees_gpu, built, lacks, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_gpu)
    # Nothing else of the core may be used.
    monkeypatch.setattr(onepass._native, "core", SimpleNamespace(build_info=lambda: {"cuda": built}))
    status, output = run(*command, f"--{option}", "cuda")
    assert status == 2
    assert f"{option} must be cpu where {lacks}, got cuda" in output


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("bench", "optim", "--case", "sgd-1000x1024", "--quick"), "output"),
        (("bench", "optim", "--case", "sgd-1000x1024", "--quick"), "plot"),
        (("parity", "dropout", "--steps", 1, "--dtype", "float32"), "json"),
        (("schedule", "cosine(9)", "--plot", "PICTURE"), "output"),
        (("schedule", "cosine(9)"), "plot"),
        (("demo", "--epochs", 1), "output"),
        (("lr-range", "--steps", 10), "output"),
    ],
    ids=["bench-output", "bench-plot", "parity", "schedule-output", "schedule-plot", "demo", "lr-range"],
)
def test_files_that_cannot_be_written_are_refused_before_the_work(arguments, option, tmp_path, monkeypatch):
    arguments = [tmp_path.parent / "drawn.png" if one == "PICTURE" else one for one in arguments]
    for work in ("bench.measure", "parity.groupby", "schedule._draw", "demo._train", "lr_range._sweep"):
        monkeypatch.setattr(f"onepass.cli.{work}", lambda *_: pytest.fail("has begun to work"))
    status, output = run(*arguments, f"--{option}", "/dev/null/x.png")
    assert status == 2
    assert f"{option} must be a place that can be written, got /dev/null/x.png" in output
    # The tests may run as root, who may write everywhere.
    folder = tmp_path / "x.png"
    if arguments[0] in ("demo", "lr-range"):
        folder.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK or path not in (tmp_path, folder))
    status, output = run(*arguments, f"--{option}", folder)
    assert status == 2
    assert f"{option} must be a place that can be written" in output
    assert "no permission" in output


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("bench", "optim", "--case", "sgd-1000x1024", "--rounds", 1, "--quick"), "output"),
        (("parity", "dropout", "--steps", 1, "--dtype", "float32"), "json"),
    ],
    ids=["bench", "parity"],
)
def test_a_full_disk_is_reported_as_a_wrong_place(arguments, option):
    status, output = run(*arguments, f"--{option}", "/dev/full")
    assert status == 2
    assert f"{option} must be a place that can be written, got /dev/full ([Errno 28]" in output


@pytest.mark.parametrize("command", [("bench", "optim", "--case", "sgd-1000x1024"), ("schedule", "cosine(9)")])
def test_a_picture_of_unknown_kind_is_refused_before_the_work(command, tmp_path, monkeypatch):
    for work in ("bench.measure", "schedule._draw"):
        monkeypatch.setattr(f"onepass.cli.{work}", lambda *_: pytest.fail("has begun to work"))
    status, output = run(*command, "--plot", tmp_path / "picture.xyz")
    assert status == 2
    assert "plot must end in one of" in output
    assert "png" in output

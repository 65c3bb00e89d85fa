"""What `onepass bench augment` and `onepass parity augment` measure. Rivals that are not installed are skipped."""

from __future__ import annotations

import importlib
from importlib import metadata

import numpy as np
import pytest
import torch

from augment_setup import REQUIRED
from onepass.bench import augment as bench
from onepass.bench import augment_rivals, harness
from onepass.bench.augment_rivals.work import MEAN, SIZE, STD, Work, over_images
from onepass.cli.app import app
from onepass.parity import augment as parity
from onepass.parity import augment_torch as formulas
from test_cli import run
from tolerance import RIVALS_ATOL

CPU = torch.device("cpu")
RIVALS = ("torch", "torchvision", "opencv", "albumentations", "kornia")
LEVEL = 100


def rival(name):
    if augment_rivals._missing(name) is not None and not REQUIRED:
        pytest.skip(f"needs {name}")
    return augment_rivals._module(name)


def batch_of(work, monkeypatch, module):
    """The batch that a rival writes, found where it is kept or returned."""
    kept = []
    real = augment_rivals.work.batch_like

    def batch_like(work):
        kept.append(real(work))
        return kept[-1]

    if hasattr(module, "batch_like"):
        monkeypatch.setattr(module, "batch_like", batch_like)
    images = np.full((work.count, *work.source, 3), LEVEL, np.uint8)
    step = module.step(work, images)
    if step is None:
        pytest.skip("has no such work")
    returned = step()
    return returned if isinstance(returned, torch.Tensor) else kept[0][0]


@pytest.mark.parametrize("chain", ["crop", "rotate"])
@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_rivals_normalise_what_they_move(name, chain, channels_last, monkeypatch):
    """An even image is even in the middle, wherever it is moved."""
    work = Work("small", chain, count=3, channels_last=channels_last)
    found = batch_of(work, monkeypatch, rival(name))
    assert found.shape == (3, 3, SIZE, SIZE)
    assert found.dtype == torch.float32
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert found.is_contiguous(memory_format=layout)
    wanted = (torch.tensor([LEVEL / 255] * 3) - torch.tensor(MEAN)) / torch.tensor(STD)
    middle = found[:, :, 64:-64, 64:-64]
    assert (middle - wanted[:, None, None]).abs().max() < RIVALS_ATOL


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_do_photos(name, monkeypatch):
    found = batch_of(Work("small", "jitter", source=(375, 500), count=2), monkeypatch, rival(name))
    assert found.shape == (2, 3, SIZE, SIZE)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_rivals_resize_bytes(name):
    work = Work("small", "resize", source=(375, 500), count=2)
    found = rival(name).step(work, np.full((2, 375, 500, 3), LEVEL, np.uint8))()
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, (2, 3, SIZE, SIZE))
    assert bool((found == LEVEL).all())


def test_rivals_that_are_not_installed_are_left_out_by_name(monkeypatch):
    def version(name):
        if name in ("kornia", "torchvision"):
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    lines = augment_rivals.left_out()
    assert "left out: kornia (kornia is not installed)" in lines
    assert "left out: torchvision (torchvision is not installed)" in lines
    assert augment_rivals.versions().startswith("rivals: torch 1.0")
    assert not {"kornia", "torchvision"} & augment_rivals.rivals(Work("a", "crop", count=1), tiny()).keys()


def tiny():
    return np.zeros((1, SIZE, SIZE, 3), np.uint8)


def test_a_rival_that_cannot_be_imported_is_left_out_with_its_error(monkeypatch):
    def broken():
        raise RuntimeError("operator missing\nand more")

    monkeypatch.setattr(importlib.import_module("onepass.bench.augment_rivals.eager"), "load", broken)
    assert augment_rivals.left_out()[0] == "left out: torch (RuntimeError: operator missing)"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_image_is_done_once(threads):
    done = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        step = over_images(done.append, 7)
        done.clear()
        step()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert sorted(done) == list(range(7))


def test_case_names_differ():
    names = [case.name for case in bench.cases(CPU)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("work", bench.WORKS, ids=lambda work: work.name)
def test_ours_does_every_work(work):
    small = Work(work.name, work.chain, work.source, 2, work.channels_last, work.mixup)
    found = bench.ours(small)()
    assert found.shape == (2, 3, SIZE, SIZE)
    assert found.dtype == (torch.uint8 if work.chain == "resize" else torch.float32)


def test_a_case_is_timed_with_its_stream():
    result = harness.measure(bench._case(Work("small", "crop", count=2)), 2, CPU)
    assert result.bytes_moved == 5 * 2 * 3 * SIZE * SIZE
    assert {"ours", "torch", "stream"} <= result.times.keys()
    assert result.faults == {}
    assert result.notes[0].startswith("rivals: torch ")


def test_one_thread_is_one_thread():
    threads, seen = torch.get_num_threads(), []
    step = bench._one_thread(Work("small", "crop", count=2))
    step.prepare()
    seen.append(torch.get_num_threads())
    step.run()
    assert [*seen, torch.get_num_threads()] == [1, threads]


# Parity


def test_parity_rows():
    rows = list(parity.rows([torch.float32, torch.bfloat16], 1, CPU))
    assert [f"{row.rule} {row.options} {row.dtype}" for row in rows if not row.ok] == []
    assert len(rows) == 2 * len(parity.RULES)
    (chain,) = [row for row in rows if row.rule == "chain" and row.dtype == "float32"]
    # One resampling is nearer to itself in float64 than two are.
    assert chain.ours_abs < chain.torch_abs


@pytest.mark.parametrize("rule", parity.RULES, ids=lambda rule: f"{rule.name} {rule.options}".replace(" ", "-"))
def test_formulas_are_torchvisions(rule):
    """The reference's formulas give what torchvision gives, in float64; its hues are float32 in any case."""
    rival("torchvision")
    v2 = parity._torchvision.load()
    dtype = torch.float32 if rule.name == "ColorJitter" else torch.float64
    x = torch.randint(0, 256, (2, 3, 19, 31), generator=torch.Generator().manual_seed(0)).to(dtype) / 255
    torch.testing.assert_close(rule.torchs(x), rule.vision(v2, x))


def test_a_product_of_maps_is_the_maps():
    """Where both maps move whole pixels, one resampling is two."""
    x = torch.rand(1, 2, 9, 9, dtype=torch.float64)
    quarter, half = formulas.affine_map((9, 9), 90.0), formulas.affine_map((9, 9), 180.0)
    once = formulas.compose_warps(x, quarter, half)
    torch.testing.assert_close(once, formulas.warp(formulas.warp(x, quarter), half))
    torch.testing.assert_close(once, torch.rot90(x, 1, (2, 3)))


def test_parity_takes_no_implementation():
    status, output = run("parity", "augment", "--impl", "torch.nn:ReLU")
    assert status == 2
    assert "impl must come with optim, batch_norm, dropout or cross_entropy, got augment" in output


def test_commands_know_augment():
    assert {"augment"} <= {command.name or command.callback.__name__ for command in app.registered_commands}

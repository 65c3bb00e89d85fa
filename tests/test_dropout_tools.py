"""What `onepass bench dropout` and `onepass parity dropout` measure."""

from __future__ import annotations

import pytest
import torch

from onepass import _native
from onepass.bench import dropout as bench
from onepass.bench import harness
from onepass.bench.caches import IN_TURN
from onepass.parity import dropout as parity

CPU = torch.device("cpu")


@pytest.mark.parametrize("work", bench.WORKS, ids=lambda work: work.name)
def test_competitors_compute_the_same(work):
    """With nothing dropped; the masks are each one's own."""
    shape = (3, 5, 4, 4) if len(work.shape) == 4 else (6, 5)
    small = bench.Work(**{**vars(work), "shape": shape, "p": 0.0})
    competitors = bench._Competitors(small, CPU)
    for mine, theirs in zip(*(competitors.step(f)() for f in (competitors.ours, competitors.torchs)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_case_is_timed_with_its_bytes_kept():
    work = bench.Work("small", (400, 8), residual=True)
    result = harness.measure(bench._case(work, CPU), 2, CPU)
    assert result.bytes_moved == 5 * 400 * 8 * 4
    assert result.times.keys() == {"ours", "torch", "stream", *(f"{one} ({IN_TURN})" for one in ("ours", "torch"))}
    assert result.notes == ["kept for backward: ours 8 bytes in all, torch 4 bytes per element"]


@pytest.mark.parametrize("offset", [0, 1, 15])
@pytest.mark.parametrize("numel", [0, 1, 63, 64, 1000])
def test_copy_probe_copies(numel, offset):
    source, target = torch.randn(numel), torch.zeros(numel + offset + 3)
    _native.core.probe_copy(source, target[offset : offset + numel], 2)
    assert torch.equal(target, torch.cat([torch.zeros(offset), source, torch.zeros(3)]))


@pytest.mark.parametrize("offset", [0, 1, 15])
@pytest.mark.parametrize("numel", [0, 1, 15, 16, 63, 1000])
def test_widen_probe_converts(numel, offset):
    source, target = torch.randint(0, 256, (numel,), dtype=torch.uint8), torch.full((numel + offset + 3,), -1.0)
    _native.core.probe_widen(source, target[offset : offset + numel], 2)
    assert torch.equal(target, torch.cat([torch.full((offset,), -1.0), source.float(), torch.full((3,), -1.0)]))


@pytest.mark.parametrize("offset", [0, 1])
def test_taps_probe_reads_its_images_and_writes_all(offset):
    """An even image's bytes come out everywhere, and nothing else is written."""
    count, side = 3, 37
    numel = count * side * side * 3
    source, target = torch.full((numel,), 7, dtype=torch.uint8), torch.full((numel + offset + 3,), -1.0)
    _native.core.probe_taps(source, target[offset : offset + numel], side, 2)
    written = target[offset : offset + numel].view(torch.uint8)
    assert bool((written == 7).all())
    assert bool((target[:offset] == -1).all() and (target[offset + numel :] == -1).all())


def test_copy_probe_is_beside_what_leaves_its_input():
    """It moves the bytes that the operation has to; in place there is no copy to compare with."""
    moved = []

    def copy(source, target, threads):
        moved.append(source.nbytes + target.nbytes)

    cases = {case.name: case for case in bench.cases(CPU)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "core", type("Core", (), {"probe_copy": staticmethod(copy)}))
        cases["forward-bfloat16"].setup()["copy"]()
    assert moved == [cases["forward-bfloat16"].bytes_moved]
    assert "copy" not in cases["forward-inplace"].setup()


def test_cases_without_bytes():
    cases = {case.name: case for case in bench.cases(CPU)}
    for name in ("overhead-train", "overhead-eval"):
        assert cases[name].bytes_moved is None
        for step in cases[name].setup().values():
            step()
    assert cases["forward-bfloat16-beside-float32-p0.1"].bytes_moved is None


def test_parity_rows():
    rows = list(parity.rows([torch.float32, torch.bfloat16], 1, CPU))
    assert all(row.ok for row in rows)
    assert {row.rule for row in rows} == {"dropout", "dropout2d", "alpha_dropout"}
    assert {row.tensor for row in rows} == {"y", "dx"}

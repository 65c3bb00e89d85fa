"""docs/distributed.md in real processes: its programs, a killed save, steps in the backward pass, loading."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import distributed_recipes as recipes
from distributed_ranks import RanksFailed, run_ranks

_SECONDS = 120


@pytest.fixture(scope="module")
def by_torchrun(tmp_path_factory):
    """Runs the page's program word for word; returns what it prints."""
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "train.py").write_text(recipes.program("train.py"))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_torchrun(by_torchrun):
    folder, printed = by_torchrun
    losses = [float(line.split()[3]) for line in printed.splitlines()]
    assert len(losses) == 30
    assert losses[-1] < 0.7 * losses[0]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000020", "step-00000030"]


@pytest.mark.parametrize("killed_at", [2, 3])
def test_a_run_killed_while_it_saves_goes_on_from_the_save_before(by_torchrun, tmp_path, killed_at):
    """With the numbers of the run that was not killed."""
    with pytest.raises(RanksFailed) as failed:
        run_ranks(recipes.train, 2, 60, str(tmp_path), killed_at, patience=10.0)
    assert [one.kind for one in failed.value.outcomes] == ["raised", "died"], str(failed.value)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [*(f"step-{10 * save:08d}" for save in range(1, killed_at)), "unfinished"]
    assert not (tmp_path / "unfinished" / ".metadata").exists()
    again, _ = run_ranks(recipes.train, 2, 60, str(tmp_path))
    lines = by_torchrun[1].splitlines()
    assert again.splitlines() == lines[10 * (killed_at - 1) :]
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize("how", ["torch's", "hooks", "clipped"])
def test_steps_in_the_backward_pass(how):
    """They are those of an optimizer for each parameter, so the norm that is clipped is that of a parameter."""
    for gap, gap_together in run_ranks(recipes.in_backward, 2, 60, how):
        assert gap == 0
        assert gap_together > 0


@pytest.mark.parametrize("fresh", [False, True])
def test_loading_never_makes_the_states_twice(tmp_path, fresh):
    shares = run_ranks(recipes.memory_of_loading, 2, 60, str(tmp_path), fresh, False)
    assert max(shares) < 0.5
    copied = run_ranks(recipes.memory_of_loading, 2, 60, str(tmp_path), fresh, True)
    assert min(copied) > 0.9, "the measurement does not see a copy"

"""FSDP2, DDP, ZeRO, checkpoints and faults with this package's optimizers, on real processes."""

from __future__ import annotations

import pytest

import distributed_training as training
from distributed_ranks import RanksFailed, run_ranks

EXACT = [name for name in training.FORMATS if name != "stochastic"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints of all formats, saved on two ranks."""
    folder = tmp_path_factory.mktemp("checkpoints")
    run_ranks(training.save, 2, 90, str(folder))
    return str(folder)


@pytest.mark.parametrize("ranks", [2, 4, 1])
def test_checkpoints_resume_on_any_number_of_ranks(checkpoints, ranks):
    """Bit for bit, twice in a row."""
    for found in run_ranks(training.resume, ranks, 120, checkpoints, True):
        assert found == dict.fromkeys(found, 0.0)


def test_checkpoints_resume_without_shards(checkpoints):
    (found,) = run_ranks(training.resume, 1, 90, checkpoints, False)
    assert found == dict.fromkeys(found, 0.0)


def test_checkpoints_go_to_torch_and_back(tmp_path):
    for found in run_ranks(training.exchange, 2, 60, str(tmp_path)):
        assert len(found) == 2
        assert max(found.values()) <= 2e-7


def test_scaler_with_an_overflow_on_one_rank():
    for gap, skipped, skipped_alone in run_ranks(training.with_scaler, 2, 60):
        assert (skipped, skipped_alone) == (1, 1)
        assert gap <= 1e-7


def test_averages_of_shards():
    for found in run_ranks(training.averages, 2, 60):
        assert found == (0.0, 0.0, True)


def test_ddp_with_bucket_views():
    for gap in run_ranks(training.with_ddp, 2, 60):
        assert gap <= 2e-7


@pytest.mark.parametrize("name", EXACT)
def test_zero_redundancy_optimizer(name):
    rule, options, dtype = training.FORMATS[name]
    options = {
        key: value for key, value in options.items() if key != "max_grad_norm"
    }  # the norm of one rank's part
    for gap in run_ranks(training.with_zero, 2, 60, rule, options, dtype):
        assert gap == 0


def test_groups_states_and_statistics_change_as_without_shards():
    for failed in run_ranks(training.lifecycle, 2, 60):
        assert failed == []


def test_what_cannot_be_updated_in_parts_is_refused():
    for told in run_ranks(training.refused, 2, 60):
        assert told == [
            "ValueError: SGD: param_groups[0]['params'][0] must be sharded or replicated, got the placements "
            "(Partial(sum),)",
            "TypeError: SGD: param_groups[0]['params'][0] must have a gradient that is a DTensor as it is itself, "
            "got a plain tensor",
            "ValueError: clip_grad_norm_: grads[0] must be sharded or replicated, got the placements "
            "(Partial(sum),)",
        ]


def test_steps_keep_no_memory():
    """torch's own step kept a specification for each parameter and step."""
    assert max(run_ranks(training.memory_of_steps, 2, 120, 10_000)) < 2048


@pytest.mark.parametrize("how", ["raises", "killed", "late"])
def test_other_ranks_end_with_an_error(how):
    """In bounded time: the group's own timeout, here five seconds."""
    with pytest.raises(RanksFailed) as failed:
        run_ranks(training.broken, 2, 25, how, patience=5.0)
    other = failed.value.outcomes[0]
    assert other.kind == "raised", str(failed.value)
    assert other.seconds < 24

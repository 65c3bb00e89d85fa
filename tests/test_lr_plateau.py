"""ReduceLROnPlateau: its warm-up, its whole state, smoothing, logging."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest
import torch

import onepass.optim
from onepass.optim import lr_scheduler as ls
from onepass.optim import schedules as s
from test_lr_scheduler import optimizer_of


def test_warm_up_in_front():
    """pytorch 68978: a warm-up counts steps, then the metric decides."""
    optimizer = optimizer_of([1.0])
    scheduler = ls.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, warmup=4)
    rates = [optimizer.param_groups[0]["lr"]]
    for epoch in range(4):
        for _ in range(2):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(1.0 + epoch)
    assert rates == [0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert not scheduler.warming_up
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_warm_up_counts_metrics_where_steps_are_not_told():
    optimizer = optimizer_of([1.0])
    scheduler = ls.ReduceLROnPlateau(optimizer, patience=0, warmup=s.warmup(2, 0.5))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(1.0)
    assert rates == [0.5, 0.75, 1.0, 0.1]


def test_warm_up_follows_the_optimizer():
    optimizer = optimizer_of([1.0], onepass.optim, skip_nonfinite=True)
    scheduler = ls.ReduceLROnPlateau(optimizer, warmup=2, follow="optimizer")
    param = optimizer.param_groups[0]["params"][0]
    for bad, lr in ((True, 0.0), (False, 0.5), (True, 0.5), (False, 1.0)):
        param.grad = torch.full((2,), float("nan") if bad else 1.0)
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == lr
    assert pickle.loads(pickle.dumps(scheduler)).last_step == 2


@pytest.mark.parametrize("at", range(0, 14, 2))
def test_resumes_with_its_whole_state(at):
    """timm 871: bad epochs and cooldown are lost there."""
    metrics = [3.0, 2.0, 2.0, 2.5, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    def make():
        optimizer = optimizer_of()
        options = {"warmup": 5, "smoothing": 2, "min_lr": [0.01, 0.2]}
        return optimizer, ls.ReduceLROnPlateau(optimizer, "min", 0.5, 1, cooldown=1, **options)

    def go(optimizer, scheduler, some):
        rates = []
        for metric in some:
            scheduler.step()
            scheduler.step(metric)
            rates.append([group["lr"] for group in optimizer.param_groups])
        return rates

    whole = go(*make(), metrics)
    assert whole[-1] != whole[8]
    optimizer, scheduler = make()
    go(optimizer, scheduler, metrics[:at])
    other, resumed = make()
    resumed.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    assert go(other, resumed, metrics[at:]) == whole[at:]


def test_smoothing_judges_the_mean():
    optimizer = optimizer_of([1.0])
    scheduler = ls.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0, smoothing=2)
    rates = []
    for metric in (4.0, 2.0, 3.0, 1.5):
        scheduler.step(torch.tensor(metric))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 1.0]
    scheduler.step(9.0)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("follow", ["calls", "optimizer"])
@pytest.mark.parametrize("source", [torch.optim.lr_scheduler.ReduceLROnPlateau, ls.ReduceLROnPlateau])
def test_a_state_past_the_warm_up_is_not_warmed_up_again(source, follow):
    before = optimizer_of([1.0])
    first = source(before, patience=0)
    for _ in range(4):
        first.step(1.0)
    reduced = before.param_groups[0]["lr"]
    optimizer = optimizer_of([1.0])
    scheduler = ls.ReduceLROnPlateau(optimizer, patience=0, warmup=3, follow=follow)
    scheduler.load_state_dict(copy.deepcopy(first.state_dict()))
    assert not scheduler.warming_up
    scheduler.step(0.5)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == reduced < 1


def test_the_warm_up_ends_before_the_first_reduction():
    optimizer = optimizer_of([1.0])
    scheduler = ls.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, warmup=2, follow="optimizer")
    scheduler.step(1.0)
    for _ in range(2):
        optimizer.step()
    scheduler.step(2.0)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_groups_that_share_a_tensor_and_groups_that_come_later():
    shared = torch.tensor(1.0)
    optimizer = optimizer_of([shared, shared], kind="AdamW", foreach=False)
    scheduler = ls.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, warmup=2, min_lr=0.1)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))], "lr": torch.tensor(3.0)})
    for _ in range(2):
        scheduler.step()
    assert [float(group["lr"]) for group in optimizer.param_groups] == [1, 1, 3]
    for _ in range(2):
        scheduler.step(1.0)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.5, 0.5, 1.5]
    assert optimizer.param_groups[0]["lr"] is shared


def test_logs_and_tensors(caplog):
    lr = torch.tensor(1.0)
    optimizer = optimizer_of([lr], kind="AdamW", foreach=False)
    scheduler = ls.ReduceLROnPlateau(optimizer, patience=0)
    with caplog.at_level(logging.INFO, "onepass.optim.lr_scheduler"):
        scheduler.step(1.0)
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr == 0.1
    assert caplog.messages == ["metric 2: learning rate of group 0 reduced from 1 to 0.1"]


def test_frameworks_recognise_it():
    scheduler = ls.ReduceLROnPlateau(optimizer_of())
    assert isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    assert isinstance(ls.StepLR(optimizer_of(), 3), torch.optim.lr_scheduler.LRScheduler)


def test_an_older_torch_names_its_comparison_otherwise(monkeypatch):
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau
    if hasattr(theirs, "_is_better"):
        monkeypatch.setattr(theirs, "is_better", theirs._is_better, raising=False)
        monkeypatch.delattr(theirs, "_is_better")
    optimizer = optimizer_of([1.0])
    scheduler = ls.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for metric in (1.0, 0.5, 0.5):
        scheduler.step(metric)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x",), "metrics must be a number or a tensor of one element, got 'x'"),
        ((torch.ones(2),), r"metrics must be a number or a tensor of one element, got tensor\(\[1\., 1\.\]\)"),
        ((torch.ones(1, device="meta"),), "metrics must be a number or a tensor of one element, got tensor"),
        ((1.0, "x"), "epoch must be a number, got 'x'"),
    ],
)
def test_a_metric_that_is_none(arguments, message):
    scheduler = ls.ReduceLROnPlateau(optimizer_of([0.1]))
    before = copy.deepcopy(scheduler.state_dict())
    with pytest.raises(TypeError, match=f"^ReduceLROnPlateau: {message}"):
        scheduler.step(*arguments)
    assert scheduler.state_dict() == before

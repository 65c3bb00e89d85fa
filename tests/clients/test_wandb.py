"""Weights & Biases, offline: what a monitor logs stands in the run's own file."""

from __future__ import annotations

import json
import struct
import time

import pytest
import torch
from torch import nn

import onepass.optim
from clients.programs import client
from onepass.monitor import Monitor
from onepass.monitor.callbacks import WandbCallback

client("wandb")

STEPS = 4
SECONDS = 60
# The file is a log of blocks, as LevelDB's: a head of seven bytes, then records of checksum, length and kind.
BLOCK, HEAD = 32768, 7
WHOLE, FIRST, LAST = 1, 2, 4


def records(folder):
    """The records in the file of the only run in a folder, once its last one is there."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    # Another process writes the file, and on a busy machine it is not done when finish() returns.
    end = time.monotonic() + SECONDS
    while True:
        found = records_in(path.read_bytes())
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        assert time.monotonic() < end, [one.WhichOneof("record_type") for one in found]
        time.sleep(0.1)


def records_in(data):
    """The records that are whole in the bytes of a file."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, parts, found = HEAD, [], []
    while place + HEAD <= len(data):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + HEAD + length > len(data):
            break
        part = data[place + HEAD : place + HEAD + length]
        place += HEAD + length
        parts = [part] if kind in (WHOLE, FIRST) else [*parts, part]
        if kind in (WHOLE, LAST):
            found.append(Record.FromString(b"".join(parts)))
    return found


def items_of(record, kind, part):
    """Names and values of one kind of record."""
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for item in getattr(getattr(record, kind), part)
    }


def train(callback):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = onepass.optim.AdamW(model.parameters(), lr=1e-2)
    with Monitor(model, optimizer, callbacks=[callback], layers_every=2) as monitor:
        for _ in range(STEPS):
            loss = model(torch.randn(8, 3)).square().mean()
            loss.backward()  # zero_grad is forgotten
            optimizer.step()
            monitor.log(loss)
        monitor.log_epoch(val_loss=0.5)
    return model, monitor.history


@pytest.mark.parametrize("own", [True, False], ids=["made", "given"])
def test_wandb(tmp_path, monkeypatch, own):
    wandb = client("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    if own:
        _, history = train(WandbCallback(dir=str(tmp_path), project="onepass"))
        assert wandb.run is None
    else:
        run = wandb.init(dir=str(tmp_path), project="onepass")
        run.log({"own": 1.0})
        _, history = train(WandbCallback(run))
        assert wandb.run is run  # it is the caller's to finish
        run.finish()
    found = records(tmp_path)
    logged = [items_of(one, "history", "item") for one in found if one.WhichOneof("record_type") == "history"]
    losses = [row["monitor/loss"] for row in logged if "monitor/loss" in row]
    assert losses == pytest.approx(history.steps["loss"].tolist())
    steps = [row["monitor/step"] for row in logged if "monitor/loss" in row]
    assert steps == history.steps["step"].tolist()
    assert [row["monitor/epoch/val_loss"] for row in logged if "monitor/epoch/val_loss" in row] == [0.5]
    looked = [row["monitor/step"] for row in logged if "monitor/layers/2/grad_norm" in row]
    assert looked == [1, 2, 4]  # the first step, and each that layers_every divides
    axes = [one.metric for one in found if one.WhichOneof("record_type") == "metric"]
    assert "monitor/step" in {axis.step_metric for axis in axes if axis.glob_name == "monitor/*"}
    texts = [one for one in found if one.WhichOneof("record_type") == "summary"]
    summary = {name: value for one in texts for name, value in items_of(one, "summary", "update").items()}
    assert "were still there" in summary["monitor/events/missing_zero_grad"]

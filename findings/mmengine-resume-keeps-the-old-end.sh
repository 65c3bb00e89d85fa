#!/usr/bin/env bash
# mmengine's parameter schedulers save where they end. A training that is resumed to go on for longer, with the scheduler of the new length,
# silently gets the old end from the checkpoint: from there on the rate stands still.
#
# Seen with mmengine 0.10.7 and torch 2.13.0: ExponentialLR(0.5, end=100) that loaded the state of one with end=3 after two steps has end 3
# and stays at 0.025. Expected: the new end, or a warning that two arguments disagree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy mmengine==0.10.7 setuptools==80.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import mmengine
import torch
from mmengine.optim import ExponentialLR


def scheduler(end):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    return optimizer, ExponentialLR(optimizer, 0.5, end=end)


def steps(optimizer, scheduler, count):
    found = []
    for _ in range(count):
        optimizer.step()
        scheduler.step()
        found.append(round(optimizer.param_groups[0]["lr"], 6))
    return found


short, long = scheduler(3), scheduler(100)
steps(*short, 2)
long[0].load_state_dict(short[0].state_dict())
long[1].load_state_dict(short[1].state_dict())
found = steps(*long, 4)
print(f"mmengine {mmengine.__version__}: end {long[1].end}, rates {found}")
assert mmengine.__version__ == "0.10.7"
assert long[1].end == 3
assert found == [0.025] * 4
PYTHON

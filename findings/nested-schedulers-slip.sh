#!/usr/bin/env bash
# torch's SequentialLR takes other schedulers as its parts, also a ChainedScheduler or another SequentialLR. Then it slips: with a chain in
# front the first rate is already that of the chain's second step, with a sequence in front the last step before the milestone is left
# out, so that the rate jumps.
#
# Seen with torch 2.13.0. Warm-up from 0.5 to 1 over 4 steps: inside a sequence inside a sequence .5, .625, .75, 1.0 instead of
# .5, .625, .75, .875, 1.0; in a chain with a decay of 0.9 the first rate is 0.45 instead of 0.5, which the chain alone gives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.optim.lr_scheduler import ChainedScheduler, ExponentialLR, LinearLR, SequentialLR, StepLR


def rates(make, count):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        found.append(round(optimizer.param_groups[0]["lr"], 6))
        optimizer.step()
        scheduler.step()
    return found


def chain(optimizer):
    return ChainedScheduler([LinearLR(optimizer, 0.5, 1.0, 4), ExponentialLR(optimizer, 0.9)])


def sequence(optimizer):
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.5, 1.0, 4), ExponentialLR(optimizer, 0.9)], [4])


def inside(part):
    return lambda optimizer: SequentialLR(optimizer, [part(optimizer), StepLR(optimizer, 9)], [6])


for name, part in (("chain", chain), ("sequence", sequence)):
    print(f"torch {torch.__version__}: {name} alone {rates(part, 5)}, in front of another {rates(inside(part), 5)}")
assert torch.__version__.startswith("2.13.0")
assert rates(chain, 1) == [0.5]
assert rates(sequence, 5) == [0.5, 0.625, 0.75, 0.875, 1.0]
assert rates(inside(sequence), 4) == [0.5, 0.625, 0.75, 1.0]
assert rates(inside(chain), 1) == [0.45]
PYTHON

#!/usr/bin/env bash
# optimi keeps one step count for a whole param group. A parameter that gets its first gradient later than the others (a layer that is
# unfrozen, an expert that is rarely routed to) begins with empty moments, but they are corrected as those of the group's current step. So
# hardly any correction is left: its first updates with Adam are half as large as they should be after five steps.
#
# Seen with torch-optimi 0.3.3 on torch 2.13.0. Expected: the first update of a parameter under Adam is lr * sign(gradient), as torch's is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy packaging
"$folder/venv/bin/pip" install --quiet --no-deps torch-optimi==0.3.3
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import optimi
import torch


def first_update(kind, **options):
    early, late = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    optimizer = kind([early, late], lr=0.1, weight_decay=0, **options)
    for step in range(6):
        early.grad = torch.ones(4)
        late.grad = torch.ones(4) if step == 5 else None
        optimizer.step()
    return -late[0].item()


print("torch-optimi", version("torch-optimi"), "torch", torch.__version__)
wanted = first_update(torch.optim.Adam)
print("torch.optim.Adam", round(wanted, 4))
assert abs(wanted - 0.1) < 1e-4
for foreach in (False, True):
    found = first_update(optimi.Adam, foreach=foreach)
    print("optimi.Adam, foreach" if foreach else "optimi.Adam", round(found, 4))
    assert 0.05 < found < 0.055, found
PYTHON

#!/usr/bin/env bash
# torch's documentation says that schedulers chain: each is applied to the rate that the one before left. CosineAnnealingLR does so
# until its minimum. There it comes to eta_min, and on its way up again all that others did before has been forgotten.
#
# Seen with torch 2.13.0: next to StepLR(2, gamma=0.1), CosineAnnealingLR(T_max=4) climbs back to 0.146 at step 5, where the product of the
# two schedules is 0.00146: the decays of steps 2 and 4 are lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import math

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
schedulers = [CosineAnnealingLR(optimizer, 4), StepLR(optimizer, 2, 0.1)]
found = []
for _ in range(6):
    found.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
    for scheduler in schedulers:
        scheduler.step()
product = [(1 + math.cos(math.pi * t / 4)) / 2 * 0.1 ** (t // 2) for t in range(6)]
print(f"torch {torch.__version__}: {[round(rate, 6) for rate in found]}, product {[round(rate, 6) for rate in product]}")
assert torch.__version__.startswith("2.13.0")
assert all(math.isclose(rate, wanted, abs_tol=1e-12) for rate, wanted in zip(found[:5], product[:5], strict=True))
assert math.isclose(found[5] / product[5], 100, rel_tol=1e-6)
PYTHON

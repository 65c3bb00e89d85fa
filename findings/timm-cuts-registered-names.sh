#!/usr/bin/env bash
# timm lets programs register optimizers of their own for create_optimizer_v2. A name with an underscore is cut there, since a prefix such
# as "lookahead_" is taken off, whatever it is: "my_adamw" makes torch's AdamW, without an error or a warning, and the registered class
# is never called.
#
# Seen with timm 1.0.31 and torch 2.13.0. Expected: the registered class, or an error for an unknown prefix.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
# Its layers import torchvision, which defines no operator next to this torch: optimizers need only the package's own files.
"$folder/venv/bin/pip" install --quiet --no-deps timm==1.0.31 torchvision==0.28.0 pillow
"$folder/venv/bin/pip" install --quiet huggingface_hub safetensors pyyaml
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm
import timm.optim
from timm.optim._optim_factory import OptimInfo, default_registry


class Mine(torch.optim.AdamW):
    pass


made = []
for name in ("my_adamw", "myadamw"):
    default_registry.register(OptimInfo(name, Mine, has_betas=True))
    made.append(type(timm.optim.create_optimizer_v2(torch.nn.Linear(2, 2), name, lr=0.1)))
print(f"timm {timm.__version__}: my_adamw makes {made[0]}, myadamw {made[1]}")
assert timm.__version__ == "1.0.31"
assert made == [torch.optim.AdamW, Mine]
PYTHON

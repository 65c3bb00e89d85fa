#!/usr/bin/env bash
# accelerate.Accelerator(cpu=True) takes an FSDP plugin and lays it aside without a word: two processes that ask for FSDP2 train with
# DistributedDataParallel, and each holds all parameters. torch's own fully_shard works on the CPU with gloo.
#
# Seen with accelerate 1.15.0 on torch 2.13.0. Expected: sharded parameters, or an error that says that FSDP is not for the CPU there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy accelerate==1.15.0
cat > "$folder/program.py" <<'PYTHON'
import warnings

import accelerate
import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    accelerator = Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
    model = accelerator.prepare(torch.nn.Linear(4, 4))
about = [str(one.message) for one in caught if "fsdp" in str(one.message).lower()]
own = fully_shard(torch.nn.Linear(4, 4), mesh=dist.init_device_mesh("cpu", (2,)))
if dist.get_rank() == 0:
    print("accelerate", accelerate.__version__, "torch", torch.__version__)
    kind = type(next(model.parameters())).__name__
    print(f"asked for FSDP2 on 2 processes: {accelerator.distributed_type}, {type(model).__name__}, parameters are {kind}")
    print(f"warnings about FSDP: {about}")
    print(f"fully_shard by itself: parameters are {type(next(own.parameters())).__name__}")
assert accelerate.__version__ == "1.15.0"
assert type(model).__name__ == "DistributedDataParallel"
assert not any(isinstance(param, DTensor) for param in model.parameters())
assert about == []
assert all(isinstance(param, DTensor) for param in own.parameters())
dist.destroy_process_group()
PYTHON
"$folder/venv/bin/torchrun" --standalone --nproc-per-node 2 "$folder/program.py"
echo "The plugin was laid aside in silence."

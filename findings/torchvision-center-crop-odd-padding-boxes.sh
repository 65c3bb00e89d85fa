#!/usr/bin/env bash
# torchvision.transforms.v2's center_crop pads an image that is smaller than the crop. Where the padding is odd, the pixels get the larger
# half of it on the right and below, and the bounding boxes and keypoints get it on the left and above: they end up one pixel away from what
# they mark.
#
# Seen with torchvision 0.28.0 on torch 2.13.0. Expected: a box moves as its pixels do.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/pip" install --quiet --no-deps torchvision==0.28.0 pillow
"$folder/venv/bin/python" - <<'PYTHON'
import torch

# For a build of torchvision whose compiled operators are for another build of torch: none is used here.
library = torch.library.Library("torchvision", "FRAGMENT")
try:
    import torchvision
except RuntimeError:
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

print("torchvision", torchvision.__version__, "torch", torch.__version__)
assert torchvision.__version__.startswith("0.28.0")
for size in (5, 6):
    image = torch.zeros(1, 3, 3)
    image[0, 1, 1] = 1
    y, x = F.center_crop(image, [size, size])[0].nonzero()[0].tolist()
    boxes = tv_tensors.BoundingBoxes([[1.0, 1, 2, 2]], format="XYXY", canvas_size=(3, 3))
    box = F.center_crop(boxes, [size, size])[0].tolist()
    print(f"crop of {size}: the pixel is at ({x}, {y}), its box is {box}")
    away = box[0] - x
    assert away == (1 if size == 6 else 0), away
PYTHON

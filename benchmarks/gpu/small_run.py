"""Runs each kernel once on small tensors of every dtype, so that a checker of memory accesses sees them all.

    compute-sanitizer --tool memcheck python benchmarks/gpu/small_run.py --device cuda

Results must be finite; parity and the tests say whether they are right. With --device cpu the CUDA kernels run on
host memory (on_host.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from on_host import use_host_kernels
from torch import Tensor

import onepass
from onepass import augment as A
from onepass.nn import functional

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Below, at and above a pack of elements, a block of threads and a chunk, with tails.
SHAPES = ((), (7,), (33, 65), (4099,), (70_001,))

RULES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Lion", {"weight_decay": 0.1}),
    ("AdamW", {"max_grad_norm": 1.0, "skip_nonfinite": True, "ema_decay": 0.99, "telemetry": True}),
]
NARROW: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {"master_weights": True}),
    ("AdamW", {"rounding": "stochastic", "seed": 1, "state_dtype": torch.float32}),
]


def steps(dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Callable[[], list[Tensor]]]]:
    """Yields a step of each rule and option set, and clipping, by name."""
    narrow = NARROW if dtype in (torch.bfloat16, torch.float16) else []
    for rule, options in [*RULES, *narrow]:
        yield f"{rule} {options}", partial(_step, rule, options, dtype, device)
    for kind in (1.0, 2.0, float("inf")):
        yield f"clip_grad_norm_ {kind}", partial(_clip, kind, dtype, device)


def _params(dtype: torch.dtype, device: torch.device) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(torch.randn(shape).to(device, dtype)) for shape in SHAPES]
    for param in params:
        param.grad = torch.randn_like(param)
    return params


def _step(rule: str, options: dict[str, Any], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    params = _params(dtype, device)
    optimizer = getattr(onepass.optim, rule)(params, lr=0.01, **options)
    for _ in range(2):
        optimizer.step()
    return [param.detach() for param in params]


def _clip(kind: float, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [onepass.optim.clip_grad_norm_(_params(dtype, device), 1.0, norm_type=kind)]


def layers(dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Callable[[], list[Tensor]]]]:
    """Yields a forward and backward pass of each layer, layout and option, by name."""
    for shape in ((5, 3, 7, 9), (64, 70), (2, 8, 32, 32)):
        for last in (False, True) if len(shape) == 4 else (False,):
            for residual in (False, True):
                for training in (True, False):
                    name = f"batch_norm {shape} channels_last={last} residual={residual} training={training}"
                    yield name, partial(_batch_norm, shape, last, residual, training, dtype, device)
    for width in (70, 1000, 9000):
        for norm in ("layer_norm", "rms_norm"):
            yield f"{norm} {width}", partial(_row_norm, norm, width, dtype, device)
    for layer in ("dropout", "alpha_dropout", "dropout2d", "feature_alpha_dropout"):
        yield layer, partial(_dropout, layer, dtype, device)
    for classes in (10, 1000, 5000):
        for options in ({}, {"label_smoothing": 0.1, "z_loss": 1e-4}, {"weight": True, "label_smoothing": 0.1}):
            yield f"cross_entropy {classes} {options}", partial(_loss, classes, options, dtype, device)
    yield "cross_entropy of images", partial(_loss_of_images, dtype, device)


def _leaf(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape).to(device, dtype).requires_grad_()


def _batch_norm(
    shape: tuple[int, ...], last: bool, residual: bool, training: bool, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    leaf, other = _leaf(shape, dtype, device), _leaf(shape, dtype, device)
    layout = torch.channels_last if last else torch.contiguous_format
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mean, var = (make(shape[1], dtype=wide, device=device) for make in (torch.zeros, torch.ones))
    weight, bias = (_leaf((shape[1],), wide, device) for _ in "wb")
    output = functional.batch_norm(
        leaf.contiguous(memory_format=layout),
        mean,
        var,
        weight,
        bias,
        training,
        activation="relu",
        residual=other.contiguous(memory_format=layout) if residual else None,
        dropout=0.1 if training else 0.0,
    )
    output.float().sum().backward()
    return [output.detach(), mean, var, *(one.grad for one in (leaf, weight, bias) if one.grad is not None)]


def _row_norm(norm: str, width: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    leaf, other = _leaf((13, width), dtype, device), _leaf((13, width), dtype, device)
    weight = _leaf((width,), dtype, device)
    output, total = getattr(functional, norm)(leaf, [width], weight, residual=other, dropout=0.1)
    (output.float().sum() + total.float().sum()).backward()
    return [output.detach(), total.detach(), *(one.grad for one in (leaf, other, weight) if one.grad is not None)]


def _dropout(layer: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    leaf = _leaf((6, 70, 33, 5), dtype, device)
    output = getattr(functional, layer)(leaf, 0.3, True)
    output.float().sum().backward()
    assert leaf.grad is not None
    return [output.detach(), leaf.grad]


def _loss(classes: int, options: dict[str, Any], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    leaf = _leaf((37, classes), dtype, device)
    target = torch.randint(classes, (37,), device=device)
    target[3] = -100
    weight = torch.rand(classes, device=device).to(dtype) if "weight" in options else None
    loss = functional.cross_entropy(leaf, target, **{**options, "weight": weight})
    assert isinstance(loss, Tensor)
    loss.backward()
    assert leaf.grad is not None
    return [loss.detach(), leaf.grad]


def _loss_of_images(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    leaf = _leaf((2, 19, 13, 11), dtype, device)
    loss = functional.cross_entropy(leaf, torch.randint(19, (2, 13, 11), device=device), label_smoothing=0.1)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert leaf.grad is not None
    return [loss.detach(), leaf.grad]


def batches(dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Callable[[], list[Tensor]]]]:
    """Yields batches of images that are augmented, by name: every kind of pass, statistic and mixing."""
    if dtype == torch.float64:
        return
    size = (37, 53)
    warp = [
        A.RandomPerspective(p=1),
        A.RandomAffine(20, interpolation="bilinear"),
        A.RandomErasing(1, value="random"),
    ]
    chains: dict[str, list[Any]] = {
        "crop": [A.RandomCrop(size, padding=4), A.Normalize(0.5, 0.5), A.CutMix()],
        "photos": [A.RandomResizedCrop(size), A.ColorJitter(0.2, 0.2, 0.2, 0.1), A.MixUp(0.2)],
        "warp": [A.Resize(size), *warp],
        "policy": [A.Resize(size), A.RandAugment(4), A.TrivialAugmentWide()],
    }
    for name, chain in chains.items():
        for source in (torch.uint8, dtype):
            yield f"augment {name} of {source}", partial(_augment, chain, source, dtype, device)


def _augment(chain: list[Any], source: torch.dtype, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    images = torch.rand(9, 61, 70, 3)
    images = (images * 255).to(source) if source == torch.uint8 else images.to(source)
    train = A.Compose(chain, seed=0, dtype=dtype)
    masked = not isinstance(chain[-1], (A.CutMix, A.MixUp))
    masks = torch.randint(9, (9, 61, 70), device=device) if masked else None
    made = train(images.to(device), masks=masks, ids=range(9))
    return list(made) if masked else [made]


def main() -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="where the tensors are")
    device = torch.device(parser.parse_args().device)
    if device.type == "cpu":
        use_host_kernels()
    torch.manual_seed(0)
    runs = broken = 0
    for dtype in DTYPES:
        for name, call in [*steps(dtype, device), *layers(dtype, device), *batches(dtype, device)]:
            finite = all(bool(result.isfinite().all()) for result in call())
            runs, broken = runs + 1, broken + (not finite)
            if not finite:
                print(f"{dtype} {name}: results that are not finite")
    print(f"{runs} small runs on {device}, {broken} with results that are not finite")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

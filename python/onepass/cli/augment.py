"""`onepass augment`: a picture of augmented images, for looking, before a training uses them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from onepass import augment as A
from onepass.cli import check_picture, writing
from onepass.cli.augment_text import parse
from onepass.demo.data import digits

_PHOTOS = ("RandomResizedCrop(224)", "RandomHorizontalFlip()", "RandomRotation(15, interpolation='bilinear')")
_JITTER = "ColorJitter(0.2, 0.2, 0.2)"
# What --augment of the demo does, too.
_DIGITS = ("RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation='bilinear')",)
# Every so many digits one is shown: 500 of each kind follow each other.
_STRIDE = 509

Bytes = NDArray[np.uint8]


def augment(
    preview: Annotated[Path, typer.Option(dir_okay=False, help="Draw the grid of images into this file.")],
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Take the first images of this folder by name. [default: digits of MNIST, as in onepass demo]",
        ),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            help="Take this transform of onepass.augment, for instance 'RandomRotation(15)'. May be repeated for "
            "a chain.",
            metavar="TEXT",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed the parameters.")] = 0,
    epoch: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Begin with this epoch.")] = 0,
    rows: Annotated[int, typer.Option(min=1, max=32, help="Show this many images.")] = 6,
    columns: Annotated[int, typer.Option(min=1, max=32, help="Show each image in this many epochs.")] = 8,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="Print the parameters of each image in the first epoch, too.")
    ] = False,
) -> None:
    """Draw augmented images: a row for each image, whose number is its id, and a column for each epoch.

    The parameters depend only on seed, epoch, id and the place of the transform, so a training with the same seed
    sees the same images. The first column holds the images as they are.
    """
    check_picture("preview", preview)
    console = Console()
    default = _DIGITS if images is None else (*_PHOTOS, _JITTER)
    chain = _chain(transform or list(default), seed)
    found = _digits(rows) if images is None else _read(images, rows)
    ids = np.arange(len(found))
    try:
        shown = [chain(found, ids=ids, epoch=epoch + i) for i in range(columns)]
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"transform must fit the images, got: {error}") from None
    if parameters:
        sizes = [image.shape[:2] for image in found]
        console.print(_table(chain.parameters(ids, epoch, sizes=sizes)))
    with writing("preview", preview):
        _draw(found, shown, epoch, preview)
    console.print(f"Wrote {preview}.")


def _chain(texts: list[str], seed: int) -> A.Compose:
    try:
        transforms = [parse(text) for text in texts]
        for one in transforms:
            if isinstance(one, (A.Normalize, A.ToDtype)):
                raise ValueError(f"must show pixels, got {type(one).__name__}, whose results are no colours")
        return A.Compose(transforms, seed=seed, dtype=torch.uint8)
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"transform: {error}") from None


def _digits(count: int) -> list[Bytes]:
    try:
        pixels, _ = digits()
    except ModuleNotFoundError as error:
        raise typer.BadParameter(f"images must be a folder here: {error}") from None
    return [pixels[i * _STRIDE % len(pixels), ..., None] for i in range(count)]


def _read(folder: Path, count: int) -> list[Bytes]:
    """Reads the first images of a folder, as red, green and blue."""
    from PIL import Image, UnidentifiedImageError

    known = Image.registered_extensions()
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in known)[:count]
    if not files:
        raise typer.BadParameter(f"images must be a folder with images, got none in {folder}")
    found = []
    for path in files:
        try:
            with Image.open(path) as image:
                found.append(np.asarray(image.convert("RGB")))
        except (OSError, UnidentifiedImageError) as error:
            raise typer.BadParameter(f"images must hold images that can be read, got {path} ({error})") from None
    return found


def _table(parameters: Mapping[str, NDArray[Any]]) -> Table:
    """Makes a table of parameters: a row for each, a column for each image."""
    shown = Table(box=SIMPLE)
    shown.add_column("parameter", no_wrap=True)
    for i in range(max(map(len, parameters.values()), default=0)):
        shown.add_column(f"id {i}", justify="right")
    for name, values in parameters.items():
        if name == "id":
            continue
        shown.add_row(name, *("" if np.isnan(value) else f"{value:.4g}" for value in values))
    return shown


def _draw(found: list[Bytes], shown: list[Any], epoch: int, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * (len(shown) + 1), 1.1 * len(found) + 0.3), layout="constrained")
    grid: Any = figure.subplots(len(found), len(shown) + 1, squeeze=False)
    for i, image in enumerate(found):
        column = [image, *(batch[i].permute(1, 2, 0).numpy() for batch in shown)]
        for axes, pixels in zip(grid[i], column, strict=True):
            axes.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
        grid[i, 0].set_ylabel(f"id {i}", fontsize=8)
    for k, axes in enumerate(grid[0]):
        axes.set_title("as it is" if k == 0 else f"epoch {epoch + k - 1}", fontsize=8)
    figure.savefig(path, dpi=100)

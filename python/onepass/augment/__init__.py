"""Augments batches of images in one pass, with torchvision's names; each sample has parameters of its own."""

from onepass.augment._parameters import Parameters
from onepass.augment._points import Boxes, Keypoints
from onepass.augment.choices import RandomApply, RandomChoice
from onepass.augment.color import ColorJitter, RandomGrayscale, RandomInvert, RandomPosterize, RandomSolarize
from onepass.augment.compose import Compose
from onepass.augment.convert import Normalize, ToDtype
from onepass.augment.crops import RandomCrop, RandomResizedCrop
from onepass.augment.erasing import RandomErasing
from onepass.augment.geometry import (
    RandomAffine,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomRotation,
    RandomVerticalFlip,
)
from onepass.augment.mixing import CutMix, MixUp
from onepass.augment.policies import RandAugment, TrivialAugmentWide
from onepass.augment.sizes import CenterCrop, Pad, Resize

__all__ = [
    "Boxes",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Keypoints",
    "MixUp",
    "Normalize",
    "Pad",
    "Parameters",
    "RandAugment",
    "RandomAffine",
    "RandomApply",
    "RandomChoice",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "ToDtype",
    "TrivialAugmentWide",
]

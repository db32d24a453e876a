"""Random flips, shifts, cutouts and distortions of a whole batch at once, on the device of the images."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lit_triwave.errors import check_choice, check_least

Crop = Literal["none", "translate", "pad_crop"]

# The increment and the two multipliers of SplitMix64 (Steele, Lea, Flood 2014, figure 11), as signed 64-bit numbers.
_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def image_seed(seed: int, epoch: int, index: int) -> int:
    """Returns the seed, in [0, 2^63), of one image's augmentation in one epoch."""
    return random.Random(f"{seed} {epoch} {index}").getrandbits(63)


def uniforms(seed: int, epoch: int, indices: Tensor, count: int) -> Tensor:
    """Returns random numbers that depend only on the seed, the image and the epoch.

    They come from a hash, not from a generator. So the augmentation of an image does not depend on the batch, the rank,
    the device, or a resume.

    Args:
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        indices: numbers of the images, (n,) int64.
        count: random numbers for each image.

    Returns:
        (n, count) float64 in [0, 1), on the device of `indices`.
    """
    start = image_seed(seed, epoch, 0)
    streams = torch.arange(count, device=indices.device)
    state = (indices[:, None] * count + streams + 1) * _GAMMA + start  # 64-bit arithmetic that wraps around
    state = (state ^ _shifted(state, 30)) * _MIX_1
    state = (state ^ _shifted(state, 27)) * _MIX_2
    state = state ^ _shifted(state, 31)
    return _shifted(state, 11).double() * 2.0**-53


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shifts the 64 bits right and fills with zeros; >> alone would repeat the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


@dataclass
class Augmentation:
    """Random flips, shifts and cutouts of training images.

    Args:
        flip: mirror half of the images, left to right.
        crop: shift by up to `pixels` each way. `"translate"` continues the image by its mirror image, as airbench does;
            `"pad_crop"` by black, as He et al. 2016 do; `"none"` does not shift.
        pixels: largest shift, at least 0.
        cutout: side in pixels of a square of the mean colour put over the image, wholly inside; 0 for none.

    Raises:
        ValueError: an argument is out of range.
    """

    flip: bool = True
    crop: Crop = "pad_crop"
    pixels: int = 4
    cutout: int = 0

    def __post_init__(self) -> None:
        check_choice(Crop, crop=self.crop)
        check_least(0, pixels=self.pixels, cutout=self.cutout)

    def check(self, height: int, width: int) -> None:
        """Raises ValueError if the images are too small for a shift or a cutout."""
        if self.crop != "none" and self.pixels >= min(height, width):
            raise ValueError(
                f"pixels must be less than the side of the images, {min(height, width)}, got {self.pixels}"
            )
        if self.cutout > min(height, width):
            raise ValueError(f"cutout must be at most the side of the images, {min(height, width)}, got {self.cutout}")

    def pixels_of(self, images: PixelTable, indices: Tensor, seed: int, epoch: int) -> Tensor:
        """Returns where each pixel of the augmented images is found in a table of pixels, without a loop over images.

        Args:
            images: the data set's pixels.
            indices: numbers of the images, (batch,) int64 on the device of the set.
            seed: seed of the run.
            epoch: number of the epoch, from 0.

        Returns:
            Positions in the table, (batch, height, width) int64.
        """
        height, width = images.height, images.width
        draws = uniforms(seed, epoch, indices, 5)
        rows = torch.arange(height, device=indices.device).expand(len(indices), -1)
        columns = torch.arange(width, device=indices.device).expand(len(indices), -1)
        if self.flip:
            columns = torch.where(draws[:, :1] < 0.5, width - 1 - columns, columns)
        if self.crop != "none":
            shifts = (draws[:, 1:3] * (2 * self.pixels + 1)).long() - self.pixels
            rows, columns = rows + shifts[:, :1], columns + shifts[:, 1:]
        firsts = (indices[:, None] * height + _mirrored(rows, height)) * width
        pixels = firsts[:, :, None] + _mirrored(columns, width)[:, None, :]
        if self.crop == "pad_crop":
            inside = _within(rows, 0, height)[:, :, None] & _within(columns, 0, width)[:, None, :]
            pixels.masked_fill_(~inside, images.black)
        if self.cutout:
            top = (draws[:, 3] * (height - self.cutout + 1)).long()[:, None]
            left = (draws[:, 4] * (width - self.cutout + 1)).long()[:, None]
            down = _within(torch.arange(height, device=indices.device), top, top + self.cutout)
            across = _within(torch.arange(width, device=indices.device), left, left + self.cutout)
            pixels.masked_fill_(down[:, :, None] & across[:, None, :], images.mean)
        return pixels


class PixelTable:
    """A set of images as one flat list of pixels, so that an augmented batch is a single look-up.

    Args:
        images: (n, height, width, channels) uint8.
        mean: colour of a cutout, (channels,) uint8.

    Attributes:
        height: height of an image.
        width: width of an image.
        black: position of a black pixel.
        mean: position of a pixel of the mean colour.
    """

    def __init__(self, images: Tensor, mean: Tensor) -> None:
        count, self.height, self.width, channels = images.shape
        self.black = count * self.height * self.width
        self.mean = self.black + 1
        self._pixels = torch.cat([images.reshape(-1, channels), torch.zeros_like(mean)[None], mean[None]])

    def take(self, indices: Tensor) -> Tensor:
        """Returns images without augmentation, (batch, channels, height, width) uint8, in channels-last memory."""
        whole = torch.arange(self.height * self.width, device=indices.device).view(self.height, self.width)
        return self.look_up(indices[:, None, None] * (self.height * self.width) + whole)

    def look_up(self, pixels: Tensor) -> Tensor:
        """Returns the pixels at positions (batch, height, width) as (batch, channels, height, width), channels last."""
        batch = self._pixels.index_select(0, pixels.flatten())
        return batch.view(*pixels.shape, -1).permute(0, 3, 1, 2)


def _mirrored(positions: Tensor, size: int) -> Tensor:
    """Reflects positions up to size − 1 outside [0, size) at the first and the last one."""
    positions = positions.abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)


def _within(positions: Tensor, lower: Tensor | int, upper: Tensor | int) -> Tensor:
    return (positions >= lower) & (positions < upper)


@dataclass
class Distortion:
    """A random affine map of each image about its middle, for images of few pixels; interpolates bicubically.

    Args:
        rotation: largest angle, in degrees, 0 to 180.
        scaling: largest relative change of size, 0 to 0.9.
        shear: largest sideways shift of a row for each row that it is away from the middle, 0 to 1.
        shift: largest shift along each axis, in pixels, 0 to 4; need not be whole.

    Raises:
        ValueError: an argument is out of range.
    """

    rotation: float = 0.0
    scaling: float = 0.0
    shear: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("rotation", 180), ("scaling", 0.9), ("shear", 1), ("shift", 4)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from 0 to {most}, got {getattr(self, name)}")

    def __bool__(self) -> bool:
        return any((self.rotation, self.scaling, self.shear, self.shift))

    def __call__(self, images: Tensor, draws: Tensor, paper: float = 0.0) -> Tensor:
        """Distorts images.

        Args:
            images: (n, channels, height, width), real.
            draws: random numbers (n, 5) in [0, 1), see `uniforms`; 1/2 changes nothing.
            paper: value of the pixels that come in from outside.

        Returns:
            The distorted images, shape and dtype of `images`.
        """
        rotation, scaling, shear, *shift = (2 * draws - 1).to(images.dtype).unbind(1)
        angle, size, lean = rotation * math.radians(self.rotation), 1 + self.scaling * scaling, self.shear * shear
        cos, sin = angle.cos() / size, angle.sin() / size
        # The source of each pixel, x and y in [−1, 1]. The side of a pixel is 2 / side in these units.
        right, down = (
            2 * self.shift / side * move for side, move in zip(reversed(images.shape[2:]), shift, strict=True)
        )
        matrix = torch.stack([cos, lean * cos - sin, right, sin, lean * sin + cos, down], 1).view(-1, 2, 3)
        grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
        return functional.grid_sample(images - paper, grid, mode="bicubic", align_corners=False) + paper

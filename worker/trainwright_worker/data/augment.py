"""Random augmentation of training images, determined by seed, epoch and sample, so it is the same after restarts."""

import math
from random import Random
from typing import Final

import numpy as np

from trainwright.api.spec.preparation import AugmentationSpec, ColorJitterSpec, RandomCropSpec, ResizedCropSpec
from trainwright_worker.data.ragged import Array

_GRAY: Final = np.array([0.2989, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in perceived brightness."""
_ATTEMPTS: Final = 10


def augment(
    image: Array, spec: AugmentationSpec, size: tuple[int, int], resized: int, maximum: float, draw: Random
) -> Array:
    """Return a randomly augmented image.

    Args:
        image: [height, width, channels], uint8 or float32.
        spec: The augmentations.
        size: Height and width of the result.
        resized: Length to which the shorter side is scaled if there is no random crop, as in evaluation.
        maximum: Largest possible value of a pixel.
        draw: Random generator, which determines the result.

    Returns:
        [height, width, channels] of the given size, uint8 or float32.
    """
    if spec.resized_crop is not None:
        image = resize(image, size, draw_part(image.shape[0], image.shape[1], spec.resized_crop, draw))
    elif spec.random_crop is not None:
        image = _crop(image, spec.random_crop, size, draw)
    else:
        image = center(image, size, resized)
    if draw.random() < spec.horizontal_flip:
        image = image[:, ::-1]
    if spec.color_jitter is not None:
        image = _jitter(image.astype(np.float32), spec.color_jitter, maximum, draw)
    return image


def center(image: Array, size: tuple[int, int], resized: int) -> Array:
    """Scale the shorter side of an image to `resized` pixels, and return its centre."""
    height, width = image.shape[:2]
    if min(height, width) != resized:
        scale = resized / min(height, width)
        height, width = max(size[0], round(height * scale)), max(size[1], round(width * scale))
        image = resize(image, (height, width), (0, 0, image.shape[1], image.shape[0]))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def draw_part(height: int, width: int, spec: ResizedCropSpec, draw: Random) -> tuple[int, int, int, int]:
    """Return a random part of an image as left, top, right, bottom; the centre if no random part fits."""
    low, high = (math.log(ratio) for ratio in spec.ratio)
    for _ in range(_ATTEMPTS):
        area, ratio = height * width * draw.uniform(*spec.scale), math.exp(draw.uniform(low, high))
        wide, high_ = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high_ <= height:
            left, top = draw.randint(0, width - wide), draw.randint(0, height - high_)
            return left, top, left + wide, top + high_
    wide = min(width, max(1, round(height * spec.ratio[1])))
    high_ = min(height, max(1, round(width / spec.ratio[0])))
    left, top = (width - wide) // 2, (height - high_) // 2
    return left, top, left + wide, top + high_


def resize(image: Array, size: tuple[int, int], box: tuple[int, int, int, int]) -> Array:
    """Return a part of an image (left, top, right, bottom), scaled to a size with antialiasing."""
    from PIL import Image  # noqa: PLC0415 - only jobs with images need it

    wanted = (size[1], size[0])
    if image.dtype == np.uint8:
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        scaled = np.asarray(picture.resize(wanted, Image.Resampling.BILINEAR, box))
        return scaled.reshape(*size, -1)
    channels = [Image.fromarray(image[:, :, channel].copy()) for channel in range(image.shape[2])]
    return np.stack([np.asarray(part.resize(wanted, Image.Resampling.BILINEAR, box)) for part in channels], axis=2)


def _crop(image: Array, spec: RandomCropSpec, size: tuple[int, int], draw: Random) -> Array:
    if min(image.shape[:2]) < min(size):
        image = center(image, size, min(size))  # Scale it up so that the window fits.
    height, width, channels = image.shape
    edge = spec.padding
    padded = np.zeros((height + 2 * edge, width + 2 * edge, channels), image.dtype)
    padded[edge : edge + height, edge : edge + width] = image
    top, left = draw.randint(0, padded.shape[0] - size[0]), draw.randint(0, padded.shape[1] - size[1])
    return padded[top : top + size[0], left : left + size[1]]


def _jitter(image: Array, spec: ColorJitterSpec, maximum: float, draw: Random) -> Array:
    """Randomly change brightness, contrast and saturation of a float32 image, in this order."""
    brightness, contrast, saturation = (
        draw.uniform(1 - width, 1 + width) for width in (spec.brightness, spec.contrast, spec.saturation)
    )
    image = np.clip(image * np.float32(brightness), 0, maximum)
    image = np.clip(_mix(image, _gray(image).mean(), contrast), 0, maximum)
    return np.clip(_mix(image, _gray(image), saturation), 0, maximum) if image.shape[2] == len(_GRAY) else image


def _mix(image: Array, other: Array, share: float) -> Array:
    return image * np.float32(share) + other * np.float32(1 - share)


def _gray(image: Array) -> Array:
    """Return the perceived brightness of each pixel ([height, width, 1])."""
    return image @ _GRAY[:, None] if image.shape[2] == len(_GRAY) else image.mean(axis=2, keepdims=True)

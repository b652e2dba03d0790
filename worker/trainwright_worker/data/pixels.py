"""Decodes images: upright, on a white background, and on one scale whatever the bit depth of the file.

Black is 0 and white is 255. Files with 8 bits per channel become integers. With more bits per channel, values are kept
exactly, as fractions on the same scale, so that images of different depths can be mixed.
"""

import io
import struct
import sys
from contextlib import suppress
from typing import Any, Final

import numpy as np

from trainwright_worker.data.ragged import Array
from trainwright_worker.errors import DataError

PIXEL_MAXIMUM: Final = 255
_WHITE: Final = 65_535
"""White with 16 bits per channel."""
_WHITE_OF_12_BITS: Final = 4_095
_BYTE: Final = 256
_VALUES: Final = {"F": "fractions", "I": "integers"}
_GRAY: Final = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in a shade of gray, as in Pillow for 8 bits."""
_BITS_PER_SAMPLE: Final = 258
_PHOTOMETRIC: Final = 262
_PLANES: Final = 284
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
"""Marker at the start of the image data of JPEG 2000."""
_DEPTH_PLACE: Final = 42
"""Offset from the marker to the bit depth of the first channel."""


def decode(content: bytes, name: str, field: str, *, grayscale: bool) -> Array:
    """Return the pixels of an encoded image, upright and on a white background.

    Args:
        content: The content of the file.
        name: Name of the image for messages.
        field: Field of the spec that error messages name.
        grayscale: Whether to return one channel of gray instead of three channels.

    Returns:
        [height, width, channels] from 0 (black) to 255 (white): uint8, or float32 if the file has more than 8 bits per
        channel.

    Raises:
        DataError: It cannot be decoded, or only with a loss of bit depth, or its values for black and white are
            unknown.
    """
    from PIL import Image  # noqa: PLC0415 - only jobs with images need it

    try:
        with Image.open(io.BytesIO(content)) as picture:
            _check_scale(picture, content, name, field)
            deep = _is_deep(picture)
            pixels = _read_deep(content, picture, grayscale=grayscale) if deep else _read(picture, grayscale=grayscale)
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).split(" <_io")[0]
        raise DataError(f"{field}: cannot decode the image {name}: {reason}", "replace or remove it") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _check_scale(picture: Any, content: bytes, name: str, field: str) -> None:
    """Check that an image can be decoded without loss of bit depth, and that its black and white are known."""
    if picture.mode == "F" or (picture.mode == "I" and picture.format != "PPM"):
        raise DataError(
            f"{field}: the image {name} contains {_VALUES[picture.mode]}, for which the values of black and "
            "white are not defined",
            "convert it to 8 or 16 bits",
        )
    if _would_lose_depth(picture, content):
        raise DataError(
            f"{field}: the image {name} has more than 8 bits per channel, which cannot be read from its format "
            "without loss",
            "convert it to a PNG file of 16 bits per channel",
        )


def _would_lose_depth(picture: Any, content: bytes) -> bool:
    """Return whether Pillow would reduce a deeper image to 8 bits per channel, and `_read_deep` does not support it."""
    match picture.format:
        case "TIFF":
            deep = max(picture.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8  # noqa: PLR2004 - bits of a byte
            return deep and picture.tag_v2.get(_PLANES) == 2 and len(picture.getbands()) > 1  # noqa: PLR2004 - separate
        case "PPM":
            arguments = picture.tile[0].args
            largest = arguments[1] if isinstance(arguments, tuple) and len(arguments) > 1 else 0
            return picture.mode == "RGB" and largest > PIXEL_MAXIMUM
        case "JPEG2000":
            place = content.find(_CODESTREAM) + _DEPTH_PLACE
            return not picture.mode.startswith("I;16") and content[place] & 0x7F >= 8  # noqa: PLR2004 - bits less one
    return False


def _is_deep(picture: Any) -> bool:
    return picture.mode.startswith("I") or ";16" in _raw_mode(picture)


def _raw_mode(picture: Any) -> str:
    """Return Pillow's raw mode of the image: the layout of the pixels in the file."""
    arguments = picture.tile[0].args if picture.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _read(picture: Any, *, grayscale: bool) -> Array:
    """Return the pixels of an image of at most 8 bits per channel (uint8)."""
    _load_upright(picture)
    return np.asarray(_on_white(picture).convert("L" if grayscale else "RGB"))


def _load_upright(picture: Any) -> None:
    from PIL import ImageOps  # noqa: PLC0415 - only jobs with images need it

    picture.load()
    with suppress(
        SyntaxError, TypeError, ValueError, struct.error
    ):  # An image with damaged EXIF data can still be decoded.
        ImageOps.exif_transpose(picture, in_place=True)


def _on_white(picture: Any) -> Any:
    """Blend a transparent picture with white. Otherwise the colour under transparency, usually black, would show."""
    from PIL import Image  # noqa: PLC0415 - only jobs with images need it

    if not picture.has_transparency_data:
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))


def _read_deep(content: bytes, picture: Any, *, grayscale: bool) -> Array:
    """Return the pixels of an image of 12 or 16 bits per channel (float32)."""
    values, white = _read_values(content, picture)
    transparent = picture.info.get("transparency")  # The transparent colour of a PNG file without an alpha channel.
    colours, alpha = np.split(values, [3 if values.shape[2] > 2 else 1], axis=2)  # noqa: PLR2004 - gray and alpha
    if isinstance(transparent, int | tuple):
        alpha = np.where((colours == transparent).all(axis=2, keepdims=True), 0, white)
    shades = colours.astype(np.float32) * np.float32(PIXEL_MAXIMUM) / np.float32(white)
    rest = alpha.astype(np.float32) / np.float32(white)
    if picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0:
        shades = PIXEL_MAXIMUM - shades  # WhiteIsZero: the file stores white as 0.
    if picture.mode == "CMYK":
        shades = (PIXEL_MAXIMUM - shades) * (1 - rest)
    elif rest.size and "RGBa" in _raw_mode(picture):
        shades = shades + PIXEL_MAXIMUM * (1 - rest)  # The colours are premultiplied by alpha.
    elif rest.size:
        shades = shades * rest + PIXEL_MAXIMUM * (1 - rest)
    if grayscale and shades.shape[2] > 1:
        return shades @ _GRAY[:, None]
    return shades if grayscale or shades.shape[2] > 1 else shades.repeat(3, axis=2)


def _read_values(content: bytes, picture: Any) -> tuple[Array, int]:
    """Return the values of an image of 12 or 16 bits per channel ([height, width, channels] int32), and that of white.

    For several channels, Pillow keeps only one byte of each value; the raw mode's byte order determines which. So the
    file is read twice, once for the upper bytes and once for the lower bytes.
    """
    form = _raw_mode(picture)
    if picture.mode.startswith("I"):
        values = _read_as(content, picture.mode, None)[..., None]
        return values, _WHITE_OF_12_BITS if form == "I;12" else _WHITE
    if form.startswith("LA"):
        both = _read_as(
            content, "RGBA", "RGBA"
        )  # Gray and alpha with two bytes each have the size of four one-byte channels.
        return both[..., 0::2] * _BYTE + both[..., 1::2], _WHITE
    native, other = ("L", "B") if sys.byteorder == "little" else ("B", "L")
    upper = {"N": native}.get(form[-1], form[-1])
    lower = other if upper == native else native
    channels = form.partition(";")[0].replace("RGBa", "RGBA")
    high, low = (_read_as(content, picture.mode, f"{channels};16{order}") for order in (upper, lower))
    return high * _BYTE + low, _WHITE


def _read_as(content: bytes, mode: str, form: str | None) -> Array:
    """Return the values of an image (int32), read by Pillow with the given mode and raw mode."""
    from PIL import Image  # noqa: PLC0415 - only jobs with images need it

    with Image.open(io.BytesIO(content)) as picture:
        if form is not None:
            picture._mode = mode  # noqa: SLF001 - there is no public way
            picture.tile = [_in_form(tile, form) for tile in picture.tile]
        _load_upright(picture)
        return np.asarray(picture).astype(np.int32)


def _in_form(tile: Any, form: str) -> Any:
    return tile._replace(args=(form, *tile.args[1:]) if isinstance(tile.args, tuple) else form)

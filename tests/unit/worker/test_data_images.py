"""Images: augmented, cropped, scaled, checked."""

import io
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from deep import png, tiff
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainwright.api.spec.corpora import ImageFolderData
from trainwright.api.spec.dataset import Normalize
from trainwright.api.spec.preparation import AugmentationSpec
from trainwright_worker.data.augment import augment, center, draw_part
from trainwright_worker.data.normalization import Normalization, measure_samples
from trainwright_worker.data.pictures import Pictures, choose_some, measure_pictures
from trainwright_worker.data.pixels import decode
from trainwright_worker.data.samples import AugmentedSamples, Samples
from trainwright_worker.errors import DataError, UserError


def image(height=12, width=16, channels=3, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(dtype)


EVERYTHING = {"horizontalFlip": 0.5, "colorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}}


class Drawn:
    """Encoded images."""

    reading = None

    def __init__(self, contents):
        self.contents = contents

    def read(self, row):
        return self.contents[row]

    def name(self, row):
        return str(row)

    def blocks(self):
        return None


@pytest.mark.parametrize("crop", [{"randomCrop": {"padding": 2}}, {"resizedCrop": {}}, {}])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_a_function_of_its_draw(crop, dtype, channels):
    pytest.importorskip("PIL")
    spec = AugmentationSpec.model_validate({**EVERYTHING, **crop})
    source = image(channels=channels, dtype=dtype)
    first, again, other = (augment(source, spec, (8, 8), 8, 255, Random(seed)) for seed in ("a", "a", "b"))
    assert first.shape == (8, 8, channels)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0 <= first.min() <= first.max() <= 255
    assert np.array_equal(source, image(channels=channels, dtype=dtype)), "the image itself stays as it is"


def test_a_random_crop_is_a_window_of_the_padded_image_and_a_flip_its_mirror():
    spec = AugmentationSpec.model_validate({"randomCrop": {"padding": 0}, "horizontalFlip": 1})
    source = image(8, 8)
    assert np.array_equal(augment(source, spec, (8, 8), 8, 255, Random(0)), source[:, ::-1])


def test_the_centre_is_what_evaluation_sees():
    assert np.array_equal(center(image(), (8, 8), 12), image()[2:10, 4:12])
    assert center(image(), (6, 6), 6).shape == (6, 6, 3)


@pytest.mark.parametrize("resize", [None, 16])
def test_training_that_crops_nothing_sees_what_evaluation_sees(resize):
    form, only = ImageFolderData(path="p", size=8, resize=resize), torch.tensor([0])
    mirror = AugmentationSpec.model_validate({"horizontalFlip": 1})
    drawn = Drawn([encoded(Image.fromarray(image(20, 30)), "PNG")])
    pictures = Pictures(drawn, only, only, form, "f", augmentation=mirror)
    assert torch.equal(pictures.take(only, 0).input.flip(3), pictures.take(only).input)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 100))
def test_a_random_part_lies_within_the_image(height, width, seed):
    spec = AugmentationSpec.model_validate({"resizedCrop": {}}).resized_crop
    left, top, right, bottom = draw_part(height, width, spec, Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_images_are_checked_from_everywhere_but_from_few_blocks_where_these_must_be_fetched():
    assert choose_some(5, None).tolist() == [0, 1, 2, 3, 4]
    assert choose_some(10**6, None)[[0, -1]].tolist() == [0, 10**6 - 1]
    blocks = torch.arange(100_000) // 100
    chosen = choose_some(100_000, blocks[torch.randperm(100_000)])
    assert len(chosen.unique()) == len(chosen) == 16 * 100
    assert choose_some(3, torch.tensor([7, 7, 9])).sort().values.tolist() in ([0, 1], [0, 1, 2], [2])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("grayscale", [True, False])
def test_images_of_sixteen_bits_keep_their_shades(form, grayscale):
    shades = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(shades).save(file, form)
    found = decode(file.getvalue(), "a", "spec.x", grayscale=grayscale)
    assert (found == np.arange(256).reshape(16, 16, 1)).all()
    assert found.shape[2] == (1 if grayscale else 3)


DEEP = np.random.default_rng(0).integers(800, 1011, (4, 5, 4))
RGB, ALPHA = DEEP[..., :3] / 257, DEEP[..., 3:] / 65535
ON_WHITE = RGB * ALPHA + 255 * (1 - ALPHA)


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (png(DEEP[..., :1]), RGB[..., :1]),
        (png(DEEP[..., 2:]), DEEP[..., 2:3] / 257 * ALPHA + 255 * (1 - ALPHA)),
        (png(DEEP[..., :3]), RGB),
        (png(DEEP), ON_WHITE),
        (
            png(DEEP[..., :3], DEEP[0, 0, :3].astype(">u2").tobytes()),
            np.where(np.arange(20).reshape(4, 5, 1), RGB, 255),
        ),
        (tiff(DEEP[..., :1], photometric=1), RGB[..., :1]),
        (tiff(DEEP[..., :1], ">", photometric=1), RGB[..., :1]),
        (tiff(DEEP[..., :1], photometric=0), 255 - RGB[..., :1]),
        *((tiff(DEEP[..., :3], order, compression=way), RGB) for order in "<>" for way in (1, 8)),
        (tiff(DEEP, extra=2), ON_WHITE),
        (tiff(DEEP, ">", extra=1, compression=8), RGB + 255 * (1 - ALPHA)),
        (tiff(DEEP, extra=0), RGB),
        (tiff(DEEP, photometric=5), (255 - RGB) * (1 - ALPHA)),
    ],
)
def test_images_of_sixteen_bits_keep_every_value(content, seen):
    found = decode(content, "a", "spec.x", grayscale=False)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.broadcast_to(seen, (4, 5, 3)), abs=1e-4)
    gray = seen @ [0.299, 0.587, 0.114] if seen.shape[2] == 3 else seen[..., 0]
    assert decode(content, "a", "spec.x", grayscale=True)[..., 0] == pytest.approx(gray, abs=1e-4)


@pytest.mark.parametrize(
    "content",
    [
        tiff(DEEP[..., :3], planes=2),
        tiff(DEEP[..., :3], planes=2, compression=8),
        b"P6 5 4 65535 " + DEEP[..., :3].astype(">u2").tobytes(),
    ],
)
def test_images_whose_depth_cannot_be_kept_are_refused(content):
    with pytest.raises(DataError, match=r"spec.x: the image a has more than 8 bits per channel") as caught:
        decode(content, "a", "spec.x", grayscale=False)
    assert caught.value.hint == "convert it to a PNG file of 16 bits per channel"


def test_images_of_different_depths_share_one_scale_with_all_their_values():
    eight_bits = encoded(Image.new("L", (8, 8), 200), "PNG")
    contents = [eight_bits, *(png(np.full((8, 8, 1), value)) for value in (200 * 257, 900, 1000))]
    form = ImageFolderData(path="p", size=8, grayscale=True)
    pictures = Pictures(Drawn(contents), torch.arange(4), torch.zeros(4, dtype=torch.int64), form, "f")
    eight, sixteen, dark, lighter = pictures.take(torch.arange(4)).input
    assert torch.equal(eight, sixteen)
    assert (lighter - dark).unique().item() == pytest.approx(100 / 257, rel=1e-4)
    dark_ones = measure_pictures(pictures.select(torch.tensor([2, 3])), Normalize.STANDARD)
    assert dark_ones.mean == pytest.approx([950 / 257])
    assert dark_ones.deviation == pytest.approx([50 / 257])
    jitter = AugmentationSpec.model_validate({"resizedCrop": {"scale": [0.5, 0.5]}, "horizontalFlip": 1})
    changed = (
        replace(pictures, normalization=dark_ones, augmentation=jitter, seed=0).take(torch.tensor([2, 3]), 0).input
    )
    assert changed[0].unique().item() == pytest.approx(-1, abs=1e-4)
    assert changed[1].unique().item() == pytest.approx(1, abs=1e-4)


def encoded(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_upright_as_exif_says(form):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    turned = Image.Exif()
    turned[0x112] = 6  # what was left is to be at the top
    found = decode(encoded(Image.fromarray(pixels), form, exif=turned), "a", "spec.x", grayscale=True)[..., 0]
    assert found.shape == (32, 16)
    assert found[:14].min() > 200
    assert found[18:].max() < 50


def test_damaged_exif_is_no_damaged_image():
    damaged = b"Exif\0\0MM\0\4\0\0\0\x08"
    assert decode(encoded(Image.new("L", (3, 2)), "JPEG", exif=damaged), "a", "spec.x", grayscale=True).shape == (
        2,
        3,
        1,
    )


@pytest.mark.parametrize(
    ("mode", "colour", "options"),
    [
        ("RGBA", (255, 0, 0, 255), {}),
        ("LA", (50, 255), {}),
        ("RGB", (255, 0, 0), {"transparency": (0, 0, 0)}),
        ("L", 50, {"transparency": 0}),
        ("P", 5, {"transparency": 0}),
    ],
)
def test_what_is_transparent_is_white(mode, colour, options):
    picture = Image.new(mode, (2, 1))
    picture.putpixel((1, 0), colour)
    clear, opaque = decode(encoded(picture, "PNG", **options), "a", "spec.x", grayscale=False)[0]
    assert clear.tolist() == [255] * 3
    assert tuple(opaque) == picture.convert("RGB").getpixel((1, 0))


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, "contains fractions"), (np.int32, "contains integers")])
def test_images_without_black_and_white_are_refused(dtype, words):
    content = encoded(Image.fromarray(np.linspace(0, 4000, 16).reshape(4, 4).astype(dtype)), "TIFF")
    with pytest.raises(DataError, match=f"spec.x: the image a {words}") as caught:
        decode(content, "a", "spec.x", grayscale=True)
    assert caught.value.hint == "convert it to 8 or 16 bits"


def test_images_in_memory_change_with_the_epoch_alone_and_not_when_measured():
    images = Samples(torch.rand(20, 3, 8, 8) * 255, torch.arange(20))
    spec = AugmentationSpec.model_validate({"randomCrop": {"padding": 2}, "horizontalFlip": 0.5})
    split = AugmentedSamples(images, Normalization((1.0,) * 3, (2.0,) * 3), spec, 7, 255)
    whole = split.take(torch.arange(20), 3)
    assert torch.equal(whole.input[5:9], split.take(torch.arange(5, 9), 3).input), "whatever it is read with"
    assert not torch.equal(whole.input, split.take(torch.arange(20), 4).input)
    assert torch.equal(split.take(torch.arange(20)).input, (images.inputs - 1) / 2)


def test_images_are_scaled_to_one_or_as_imagenet_was():
    images = Samples(torch.full((4, 3, 2, 2), 100.0), torch.zeros(4, dtype=torch.int64))
    assert images.scaled(measure_samples(images.inputs, images.targets, Normalize.UNIT)).inputs.max() == 1
    assert measure_samples(images.inputs, images.targets, Normalize.IMAGENET).mean == pytest.approx(
        (123.675, 116.28, 103.53)
    )
    with pytest.raises(UserError, match=r"spec.dataset.normalize: imagenet, but the images have 1 channel"):
        measure_samples(torch.zeros(4, 1, 2, 2), torch.zeros(4), Normalize.IMAGENET)
    rows = Samples(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.zeros(2, dtype=torch.int64))
    assert rows.scaled(measure_samples(rows.inputs, rows.targets, Normalize.UNIT)).inputs.tolist() == [[0, 0], [1, 0]]

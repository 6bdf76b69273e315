import io

import numpy as np
import pytest
from PIL import Image

from storage.errors import BadSampleError
from storage.input_options import ImageOptions
from tasks.inputs.images import ImageDecoder, decode_image
from tests.storage.refusal import refused

SQUARE = ImageOptions(size=(8, 8))


def encoded(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def noise(height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def test_an_image_of_the_right_size_keeps_its_pixels():
    pixels = noise()
    found = decode_image(encoded(Image.fromarray(pixels)), SQUARE)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels.transpose(2, 0, 1))


def test_grey_and_colour_and_transparency():
    grey = Image.fromarray(noise()[:, :, 0])
    assert decode_image(encoded(grey), SQUARE).shape == (3, 8, 8)
    one = ImageOptions(size=(8, 8), channels=1)
    assert np.array_equal(decode_image(encoded(grey), one)[0], noise()[:, :, 0])
    assert decode_image(encoded(Image.fromarray(noise())), one).shape == (1, 8, 8)
    clear = Image.fromarray(noise(channels=4))
    assert np.array_equal(
        decode_image(encoded(clear), SQUARE), noise(channels=4)[:, :, :3].transpose(2, 0, 1)
    )
    palette = grey.quantize(16)
    assert decode_image(encoded(palette, transparency=bytes(range(16))), SQUARE).shape == (3, 8, 8)


def test_sixteen_bits_of_grey_are_scaled_not_cut_off():
    wide = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    found = decode_image(encoded(Image.fromarray(wide)), ImageOptions(size=(8, 8), channels=1))
    assert np.array_equal(found[0], wide // 257)


def test_a_cameras_orientation_is_applied():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255  # the first row; turned by 90 degrees it is the last column
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decode_image(encoded(image, exif=exif), SQUARE)
    assert (found[:, :, 7] == 255).all()
    assert (found[:, :, :7] == 0).all()


@pytest.mark.parametrize(("resize", "left", "middle"), [
    ("crop", 200, 200), ("fit", 0, 200), ("stretch", 200, 200),
])  # fmt: skip
def test_the_ways_of_resizing(resize, left, middle):
    tall = Image.fromarray(np.full((40, 10, 3), 200, np.uint8))
    found = decode_image(encoded(tall), ImageOptions(size=(8, 8), resize=resize))
    assert found.shape == (3, 8, 8)
    assert found[0, 4, 0] == left
    assert found[0, 4, 4] == middle


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"\x89PNG hello", ["no image"]),
        (encoded(Image.fromarray(noise(64, 64)))[:5000], ["damaged", "truncated"]),
        (encoded(Image.fromarray(noise(64, 64)), "JPEG")[:900], ["damaged", "truncated"]),
    ],
)
def test_a_damaged_image_is_a_bad_sample(content, words):
    with refused(BadSampleError, *words):
        decode_image(content, SQUARE)


@pytest.mark.parametrize("limit", [40, 60])  # beyond twice the limit, and between
def test_an_image_beyond_pillows_limit_is_a_bad_sample(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with refused(BadSampleError, f"{limit} pixels"):
        decode_image(encoded(Image.fromarray(noise(10, 10))), SQUARE)


def test_what_it_makes_is_known_without_decoding():
    (spec,) = ImageDecoder(ImageOptions(size=(3, 5), channels=1)).inputs
    assert (spec.dtype, spec.shape) == ("uint8", (1, 3, 5))

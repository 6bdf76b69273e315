"""Images as uint8 arrays, by Pillow.

The orientation that a camera noted is applied, of an animation the first picture is taken, and
images beyond Pillow's limit against decompression bombs are refused.

Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from storage.errors import BadSampleError, one_line
from storage.file_corpus import OpenFile
from storage.identity import Json
from storage.input_options import IMAGE, ImageOptions
from storage.rows import Array
from storage.spec import InputSpec

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm",
)  # fmt: skip
_METHOD = Image.Resampling.BILINEAR

# Pillow only warns of an image up to twice its limit; here that is a bad sample as well.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageDecoder:
    """A file's image in one size."""

    options: ImageOptions

    suffixes: tuple[str, ...] = SUFFIXES

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """One array [C, H, W]."""
        shape = (self.options.channels, *self.options.size)
        return (InputSpec(name=IMAGE, dtype="uint8", shape=shape),)

    @property
    def identity(self) -> Json:
        """What decides the numbers."""
        return self.options.identity()

    def load(self, file: OpenFile) -> bytes:
        """All of it."""
        return file.read(0, file.size_bytes)

    def decode(self, content: bytes) -> tuple[Array, ...]:
        """The image [C, H, W].

        Raises:
            BadSampleError: it is no image, damaged, or too large.
        """
        return (decode_image(content, self.options),)


def decode_image(content: bytes, options: ImageOptions) -> Array:
    """The image that a file holds, as uint8 [C, H, W].

    Raises:
        BadSampleError: it is no image, damaged, or too large.
    """
    if not content:
        raise BadSampleError("the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = _resized(_in_colour(ImageOps.exif_transpose(opened), options), options)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError(
            f"the image has more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are allowed"
        ) from error
    except UnidentifiedImageError as error:
        raise BadSampleError("that is no image which Pillow knows") from error
    except Exception as error:  # codecs raise whatever they like on damaged bytes
        raise BadSampleError(f"the image is damaged: {one_line(error)}") from error
    pixels_HWC = np.asarray(image, np.uint8).reshape(*options.size, options.channels)
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


def _in_colour(image: Image.Image, options: ImageOptions) -> Image.Image:
    wanted = "RGB" if options.channels == 3 else "L"
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(wanted)


def _resized(image: Image.Image, options: ImageOptions) -> Image.Image:
    height, width = options.size
    if image.size == (width, height):
        return image
    if options.resize == "crop":
        return ImageOps.fit(image, (width, height), _METHOD)
    if options.resize == "fit":
        return ImageOps.pad(image, (width, height), _METHOD)
    return image.resize((width, height), _METHOD)

"""Image files of any format and colour mode -> 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

open_image = Image.open  # the original: importing ultralytics replaces Image.open

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN_BITS = ("PNG", "PPM")  # formats whose 16-bit files Pillow may open with the mode I

# A damaged EXIF block (some ImageNet files have one) does not affect the pixels.
warnings.filterwarnings("ignore", message="Corrupt EXIF data", module=r"PIL\.")


def decode_file(blob: bytes) -> Image.Image:
    """Decode all pixels of an image file (JPEG, PNG, ...) as they are stored, to RGB.

    The EXIF orientation is not applied, as in torchvision's and timm's data sets. Of 16 bits the
    upper 8 are kept, as OpenCV does. Transparency is dropped.

    Raises:
        ValueError: the pixels are 32-bit integers or floating-point numbers, which have no agreed
            range.
        OSError and other errors of Pillow: the file is truncated, corrupt or not an image.
    """
    return _rgb(open_image(io.BytesIO(blob)))


def decode_upright(blob: bytes) -> Image.Image:
    """As `decode_file`, turned as the EXIF orientation says, as ultralytics does."""
    image = open_image(io.BytesIO(blob))
    rgb = _rgb(image)
    turn = TURNS.get(orientation(image))  # Pillow has turned a TIFF already
    return rgb if turn is None else rgb.transpose(turn)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (as stored) if there is none or it is damaged."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises whatever the damage leads to
        return 1
    return found if found in TURNS else 1


def header_sizes(file: Path) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(width, height) of the image as `decode_file` and as `decode_upright` give it.

    Only the header is read; None if it is unreadable.
    """
    if not file.is_file():  # a FIFO would keep the reader waiting
        return None
    try:
        with open_image(file) as header:
            width, height = header.size
            turned = orientation(header) >= 5 and header.format != "TIFF"
    except MemoryError:
        raise
    except Exception:  # Pillow raises whatever the damage leads to
        return None
    return (width, height), ((height, width) if turned else (width, height))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS):
        upper = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(
            f"its pixels are {kind} (mode {image.mode}), whose range nobody knows: convert it to 8 "
            "or 16 bits"
        )
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")

"""Pixels of files of every depth and orientation."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from evaluation.decoding import decode_file, decode_upright, header_sizes

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def encoded(image: Image.Image, kind: str, **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def pgm(pixels: np.ndarray) -> bytes:
    return b"P5 256 256 65535\n" + pixels.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_of_sixteen_bits_the_upper_eight_are_kept(kind):
    blob = pgm(RAMP) if kind == "PGM" else encoded(Image.fromarray(RAMP), kind)
    for decode in (decode_file, decode_upright):
        pixels = np.asarray(decode(blob))
        assert pixels.shape == (256, 256, 3)
        assert (pixels == (RAMP >> 8)[..., None]).all()
        assert pixels.mean() == 127.5


def test_a_picture_in_sixteen_bits_is_the_one_in_eight():
    grey = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    wide = grey.astype(np.uint16) * 257
    eight, sixteen = (decode_file(encoded(Image.fromarray(g), "PNG")) for g in (grey, wide))
    assert (np.asarray(eight) == np.asarray(sixteen)).all()


@pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
def test_pixels_without_a_known_range_are_refused_by_their_mode(dtype, mode):
    blob = encoded(Image.fromarray((RAMP / 65535).astype(dtype)), "TIFF")
    with pytest.raises(ValueError, match=rf"\(mode {mode}\).*convert it to 8 or 16 bits"):
        decode_file(blob)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_upright_image_is_turned_as_its_exif_says(tmp_path, kind, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    blob = encoded(image, kind, exif=exif, **lossless)
    upright, stored = decode_upright(blob), decode_file(blob)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(blob))).convert("RGB")
    assert (np.asarray(upright) == np.asarray(expected)).all()
    (tmp_path / "a").write_bytes(blob)
    assert header_sizes(tmp_path / "a") == (stored.size, upright.size)
    if kind != "TIFF":  # which Pillow always turns
        assert stored.size == (80, 48)
        assert upright.size == ((48, 80) if orientation >= 5 else (80, 48))


def test_a_header_that_cannot_be_read_has_no_size(tmp_path):
    (tmp_path / "a").write_bytes(b"no image")
    assert header_sizes(tmp_path / "a") is None
    assert header_sizes(tmp_path / "nowhere") is None

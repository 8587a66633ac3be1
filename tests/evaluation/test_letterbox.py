"""Letterboxing against ultralytics' own pipeline, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.letterbox import Letterbox, to_image


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "size", [(640, 480), (333, 500), (500, 333), (1201, 77), (20, 30), (64, 64)]
)
@pytest.mark.parametrize("shape", [(64, 64), (96, 64), (64, 160)])
def test_images_are_those_of_ultralytics_validation(size, shape, tmp_path):
    from ultralytics.cfg import get_cfg
    from ultralytics.data import YOLODataset

    (tmp_path / "images").mkdir()
    image = picture(*size)
    image.save(tmp_path / "images" / "a.png")
    dataset = YOLODataset(
        img_path=str(tmp_path / "images"), imgsz=max(shape), augment=False, rect=False,
        hyp=get_cfg(), data={"names": {0: "x"}, "channels": 3}, task="detect",
    )  # fmt: skip
    dataset.transforms[0].new_shape = shape  # a square elsewhere in ultralytics
    theirs = dataset[0]
    x, place = Letterbox(*shape)(image, ())
    assert x.dtype == torch.float32 and x.shape == (3, *shape)
    assert torch.equal((x * 255).round().byte(), theirs["img"])
    (ratio, padding) = theirs["ratio_pad"]
    assert place[:2].tolist() == [size[1], size[0]]
    if shape[0] == shape[1]:  # elsewhere theirs forgets that sides were rounded a second time
        assert place[2:4].tolist() == pytest.approx(ratio)
    assert (place[5], place[4]) == padding


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (1201, 700), (20, 30)])
def test_a_box_comes_back_to_where_it_was(size):
    width, height = size
    black = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = width // 4, height // 3, width // 2, height * 3 // 4
    black[y1:y2, x1:x2] = 255
    x, place = Letterbox(320, 320)(Image.fromarray(black), ())
    rows, columns = (x[0] > 0.5).nonzero(as_tuple=True)
    found = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).double()
    back = to_image(found, place.tolist())
    pixel = max(width, height) / 320  # of the letterboxed input
    torch.testing.assert_close(back[0], torch.tensor([x1, y1, x2, y2]).double(), rtol=0, atol=pixel)


def test_boxes_are_cut_off_at_the_border_of_the_image():
    _, place = Letterbox(64, 64)(picture(100, 50), ())
    everything = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    assert to_image(everything, place.tolist()).tolist() == [[0, 0, 100, 50]]

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from timm.data import ImageNetInfo, create_transform

from evaluation.preprocessing import FILTERS, Preprocessing
from evaluation.synsets import SYNSETS

SIZES = [(8, 8), (7, 9), (31, 20), (64, 48), (33, 90), (200, 13)]


@pytest.mark.parametrize("mode", ["center", "squash", "border", None])
@pytest.mark.parametrize("side", [(8, 8), (20, 20), (24, 17)])
@pytest.mark.parametrize("share", [1.0, 0.875, 0.95, None])
def test_the_input_is_timms_to_the_bit(mode, side, share):
    draw = np.random.default_rng(0)
    for name in FILTERS:
        config = {
            "input_size": (3, *side),
            "interpolation": name,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "crop_pct": share,
            "crop_mode": mode,
        }
        ours, theirs = Preprocessing.of(config), create_transform(**config, is_training=False)
        for height, width in SIZES:
            image = Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))
            assert ours(image).equal(theirs(image)), (name, height, width)


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="interpolation='random' must be one of nearest"):
        Preprocessing.of({"interpolation": "random"})


def test_the_synsets_are_those_of_timm():
    assert list(SYNSETS) == ImageNetInfo("imagenet-1k").label_names()

"""Folders with fewer images than the defaults ask for, through the whole chain."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

QUICK = ("method=rtn", "baseline.budget=0", "report.heatmaps=0")


@pytest.fixture
def folder(tmp_path):
    """Twenty images of ten classes, and nothing that is set aside for calibration."""
    root, draw = tmp_path / "twenty images", np.random.default_rng(0)
    for name in "abcdefghij":
        (root / name).mkdir(parents=True)
        for i in range(2):
            pixels = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def on(folder, *more):
    own = ("data=imagenet", "data.classes=10", f"data.root={folder}", "data.batch_size=10")
    return ("model=digits", *own, *QUICK, *more)


def test_defaults_take_half_of_what_there_is_and_say_so(obliq, folder, tmp_path):
    found = obliq(*on(folder))
    assert found.status == 0, found.text
    assert "10 of 20 images for calibration (calibrate.images=10), the other 10" in found.text
    assert "fewer than batchnorm.compare_images=256: all 10 are taken there" in found.text
    results = found.results
    assert results["settings"]["calibrate"]["images"] == 10
    assert results["settings"]["label_free"]["images"] == 10
    assert results["images_taken"] == {"calibrate.images": 10, "batchnorm.compare_images": 10}
    assert results["n_images"] == 10

    given = obliq(*on(folder, "calibrate.images=10"))
    assert all(given.results["cached"].values()), "the same number is the same calibration"
    assert given.results["quantized"] == results["quantized"]

    again = obliq(
        "reproduce", str(found.folder), "--out", str(tmp_path / "again"), "--store", "--yes"
    )
    assert again.status == 0 and "REPRODUCED" in again.text, again.text
    record = json.loads((tmp_path / "again" / "results.json").read_text())
    assert "calibrate.images=10" in record["command"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("calibrate.images=21", "calibrate.images=21 must lie in 1..20"),
        ("calibrate.images=20", "nothing is left to evaluate on"),
        ("method.held_out=10", "method.held_out=10 leaves none of 10 calibration images"),
        ("calibrate.max_images=1", "method.held_out=1 leaves none of 1 calibration images"),
        ("calibrate.max_images=0", "calibrate.max_images=0 must be at least 1"),
    ],
)
def test_a_number_that_is_given_and_too_large_is_an_error(obliq, folder, word, says):
    found = obliq(*on(folder, "method=eptq", "schedule=cpu", "cpu_steps=2", word))
    assert found.status == 1 and says in " ".join(found.text.split())


def test_every_stage_fits_a_small_folder(obliq, folder, tmp_path):
    trained = ("method=eptq", "schedule=cpu", "cpu_steps=2", "act_bits=8")
    found = obliq(*on(folder, *trained))
    assert found.status == 0, found.text
    results = found.results
    assert results["settings"]["method"]["held_out"] == 5
    assert results["settings"]["rounding"]["held_out"] == 5
    assert results["rounding"]["images"] == 5, "the other five are trained on"
    assert results["images_taken"]["activations.images"] == 10

    searched = ("precision=mixed", "precision.choices=[4,8]", "precision.cost=size")
    measured = ("precision.metric=hessian_trace", "precision.target=0.5")
    found = obliq(*on(folder, *searched, *measured, "precision.measure=agreement"))
    assert found.status == 0, found.text
    taken = found.results["images_taken"]
    assert taken["precision.perturbations.images"] == taken["precision.traces.images"] == 10

    found = obliq(*on(folder, "objective=kl"))
    assert found.status == 0, found.text
    record = json.loads((found.folder / "objective.json").read_text())
    assert record["held_out"] == record["calibrated_on"] == 5
    assert record["settings"]["objective"]["images"] == 5


def test_of_one_image_none_can_be_spared(obliq, folder):
    for path in sorted(folder.rglob("*.png"))[1:]:
        path.unlink()
    found = obliq(*on(folder))
    assert found.status == 1 and "none can be spared for calibration" in found.text


def test_two_images_are_one_and_one(obliq, folder):
    for path in sorted(folder.rglob("*.png"))[2:]:
        path.unlink()
    found = obliq(*on(folder))
    assert found.status == 0, found.text
    assert found.results["n_images"] == found.results["settings"]["calibrate"]["images"] == 1

from __future__ import annotations

from pipelines.stages import counts


def test_numbers_are_filled_in_where_the_settings_leave_them_open():
    settings = {"calibrate": {"images": None, "seed": 0}, "label_free": {"images": 5}, "method": {}}
    found = counts.filled(
        settings,
        {"calibrate.images": 7, "label_free.images": 7, "method.held_out": 3, "rounding.images": 1},
    )
    assert found == {
        "calibrate": {"images": 7, "seed": 0},
        "label_free": {"images": 5},
        "method": {},
    }
    assert settings["calibrate"]["images"] is None, "the original stays"


def test_what_stages_take_is_never_more_than_there_is():
    asked = {"activations.images": 256, "batchnorm.compare_images": 8}
    assert counts.taken(asked, 10) == {"activations.images": 10, "batchnorm.compare_images": 8}
    assert counts.told(asked, 256) is None
    text = counts.told(asked, 10)
    assert "activations.images=256" in text and "all 10" in text and "batchnorm" not in text

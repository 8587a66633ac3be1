"""The embedded digits."""

from importlib.machinery import ModuleSpec

import numpy as np
import pytest
from sklearn.datasets import load_digits

from evaluation import digits as digits_module
from evaluation.digits import Digits, split

CONFIG = {
    "input_size": (3, 8, 8),
    "interpolation": "bilinear",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "crop_pct": 1.0,
}


def digits(root=None, **settings) -> Digits:
    defaults = {"batch_size": 64, "workers": 0, "skip_bad": False, "images": None}
    return Digits(root, None, **(defaults | settings))


def test_training_and_evaluation_pool_are_disjoint_and_hold_every_digit_once():
    training, evaluation = split()
    assert (len(training), len(evaluation)) == (1297, 500)
    assert {*training.ids, *evaluation.ids} == {f"digits#{i}" for i in range(1797)}
    assert len(evaluation.without(training)) == 500


def test_the_split_is_always_the_same_and_holds_each_class_in_both_parts():
    first, second = split(), split()
    assert [s.key for s in first] == [s.key for s in second]
    assert all(np.bincount(samples.labels).min() > 35 for samples in first)


def test_pixels_and_labels_are_scikit_learns():
    bunch = load_digits()
    _, evaluation = split()
    data = digits()
    data.prepare(CONFIG, 64, seed=0, calibration_batch_size=32)
    x, y = next(iter(data.test_dataloader()))
    for image, label, name in zip(x, y, evaluation.ids[:64], strict=False):
        i = int(name.removeprefix("digits#"))
        np.testing.assert_allclose(image[0].numpy() * 16, bunch.images[i], rtol=0, atol=0.04)
        assert (image[0] == image[1]).all()
        assert (image[0] == image[2]).all()
        assert label == bunch.target[i]


def test_the_file_in_scikit_learn_holds_what_load_digits_returns(monkeypatch, tmp_path):
    read = digits_module.table()
    monkeypatch.setattr(digits_module, "_imported", lambda: pytest.fail("the file was not read"))
    assert np.array_equal(digits_module.table(), read)
    monkeypatch.undo()
    elsewhere = ModuleSpec("sklearn", None, is_package=True)
    elsewhere.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(digits_module, "find_spec", lambda name: elsewhere)
    assert np.array_equal(digits_module.table(), read)
    bunch = load_digits()
    assert np.array_equal(read, np.column_stack((bunch.data, bunch.target)))


def test_calibration_draws_from_the_training_pool_and_evaluation_keeps_all_500():
    data = digits()
    data.prepare(CONFIG, 100, seed=0, calibration_batch_size=32)
    assert set(data.calibration.ids) <= set(split()[0].ids)
    assert data.evaluation.ids == split()[1].ids
    data.check()


def test_a_root_is_refused_as_nothing_would_be_read_from_it():
    with pytest.raises(ValueError, match=r"data\.root=/some/where.*embedded"):
        digits("/some/where").pools()

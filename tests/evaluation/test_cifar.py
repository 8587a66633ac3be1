"""CIFAR-10 from both kinds of file; the JPEGs are real ones."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.cifar import NAMES, Cifar10

CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bilinear",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "crop_pct": 1.0,
}


def cifar(root, calibration_root=None, **settings) -> Cifar10:
    defaults = {"batch_size": 7, "workers": 0, "skip_bad": False, "images": None}
    calibration_root = calibration_root and str(calibration_root)
    return Cifar10(root and str(root), calibration_root, **(defaults | settings))


def write_batches(folder: Path, train: int = 4, test: int = 10) -> np.ndarray:
    """cifar-10-batches-py with random pixels; returns those of the test batch [n, 3072]."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        n = test if name == "test_batch" else train
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        batch = {b"data": data, b"labels": [i % 10 for i in range(n)]}
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    return data


def excerpt(source: Path, target: Path, n: int) -> None:
    with np.load(source) as arrays:
        offset = arrays["offset"][: n + 1]
        np.savez(
            target, jpeg=arrays["jpeg"][: offset[-1]], offset=offset, label=arrays["label"][:n]
        )


def test_the_published_jpegs_are_found_by_folder_and_calibration_has_its_own(data_root):
    data = cifar(data_root, images=50)
    data.prepare(CONFIG, 20, seed=0, calibration_batch_size=8)
    assert {name.split("#")[0] for name in data.calibration.ids} == {"cifar10_calib2000"}
    assert {name.split("#")[0] for name in data.evaluation.ids} == {"cifar10_dev5000"}
    data.check()
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (7, 3, 32, 32)
    assert y.tolist() == list(data.evaluation.labels[:7])
    assert 0.2 < x.mean() < 0.8  # photographs, not noise or zeros
    assert x.std() > 0.15


def test_one_file_of_jpegs_is_both_pools_and_calibration_images_leave_the_evaluation(
    data_root, tmp_path
):
    excerpt(data_root / "cifar10_dev5000.npz", tmp_path / "few.npz", 60)
    data = cifar(tmp_path / "few.npz")
    data.prepare(CONFIG, 25, seed=0, calibration_batch_size=8)
    assert len(data.evaluation) == 35
    assert not set(data.calibration.ids) & set(data.evaluation.ids)


def test_a_copy_of_the_file_under_another_name_is_recognised(data_root, tmp_path):
    excerpt(data_root / "cifar10_dev5000.npz", tmp_path / "few.npz", 60)
    excerpt(data_root / "cifar10_dev5000.npz", tmp_path / "copy.npz", 60)
    data = cifar(tmp_path / "few.npz", tmp_path / "copy.npz")
    data.prepare(CONFIG, 25, seed=0, calibration_batch_size=8)
    chosen = {name.replace("copy", "few") for name in data.calibration.ids}
    assert len(chosen) == 25
    assert set(data.evaluation.ids) == {f"few#{i}" for i in range(60)} - chosen


@pytest.mark.parametrize("inside", [True, False])
def test_python_batches_give_the_test_batch_for_evaluation_and_the_rest_to_choose_from(
    tmp_path, inside
):
    pixels = write_batches(tmp_path / "cifar-10-batches-py")
    data = cifar(tmp_path / "cifar-10-batches-py" if inside else tmp_path)
    data.prepare(CONFIG, 20, seed=0, calibration_batch_size=8)
    assert sorted(data.calibration.ids) == [
        f"data_batch_{b}#{i}" for b in range(1, 6) for i in range(4)
    ]
    x, y = next(iter(data.test_dataloader()))
    expected = pixels[:7].reshape(7, 3, 32, 32) / np.float32(255)
    np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=1e-6)
    assert y.tolist() == list(range(7))


def test_other_pixels_of_the_same_size_give_another_key(tmp_path):
    keys = set()
    for name, value in (("a", 1), ("b", 2)):
        write_batches(tmp_path / name)
        batch = {b"data": np.full((10, 3072), value, np.uint8), b"labels": list(range(10))}
        (tmp_path / name / "test_batch").write_bytes(pickle.dumps(batch, 2))
        data = cifar(tmp_path / name)
        data.prepare(CONFIG, 5, seed=0, calibration_batch_size=8)
        keys.add(data.evaluation_key)
    assert len(keys) == 2


def test_a_batch_that_holds_code_is_named_and_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    write_batches(tmp_path / "batches")
    (tmp_path / "batches" / "data_batch_3").write_bytes(pickle.dumps(Attack(), 2))
    with pytest.raises(ValueError, match=r"data_batch_3 is a pickle that contains code.*mkdir"):
        cifar(tmp_path / "batches").pools()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2],
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]},
        {b"data": np.zeros((2, 99), np.uint8), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": ["cat", "dog"]},
    ],
)
def test_a_pickle_that_is_no_batch_is_an_error_that_names_the_file(tmp_path, batch):
    write_batches(tmp_path / "batches")
    (tmp_path / "batches" / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(ValueError, match="test_batch is not a CIFAR-10 batch"):
        cifar(tmp_path / "batches").pools()


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_out_of_range_names_the_image(tmp_path, label):
    write_batches(tmp_path / "batches")
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, label]}
    (tmp_path / "batches" / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(ValueError, match=rf"1 of 2 evaluation .* 0\.\.9: test_batch#1 has {label}"):
        cifar(tmp_path / "batches").prepare(CONFIG, 4, 0, 8)


def good_arrays() -> dict[str, np.ndarray]:
    return {
        "jpeg": np.arange(9, dtype=np.uint8),
        "offset": np.array([0, 4, 9]),
        "label": np.array([1, 2]),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"offset": np.array([0, 4, 8])},
        {"offset": np.array([1, 4, 9])},
        {"offset": np.array([0, 10, 9])},
        {"label": np.array([1])},
        {"offset": np.array([0]), "label": np.zeros(0, int), "jpeg": np.zeros(0, np.uint8)},
    ],
)
def test_arrays_that_do_not_fit_together_are_an_error(tmp_path, change):
    np.savez(tmp_path / "x.npz", **(good_arrays() | change))
    with pytest.raises(ValueError, match=r"x\.npz.*are inconsistent"):
        cifar(tmp_path / "x.npz").pools()


def test_a_damaged_npz_or_one_with_objects_is_an_error_that_names_it(tmp_path):
    np.savez(tmp_path / "good.npz", **good_arrays())
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_bytes(b"not an archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npz", np.zeros(3))
    os.rename(tmp_path / "array.npz.npy", tmp_path / "array.npz")
    np.savez(tmp_path / "object.npz", **(good_arrays() | {"label": np.array([{}, {}])}))
    np.savez(tmp_path / "lacks.npz", jpeg=np.zeros(3))
    for name in ("cut", "text", "empty", "array", "object", "lacks"):
        with pytest.raises(ValueError, match=rf"{name}\.npz is not an \.npz file"):
            cifar(tmp_path / f"{name}.npz").pools()


def test_a_folder_without_cifar_says_what_it_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"cifar10_dev5000\.npz nor test_batch"):
        cifar(tmp_path).pools()
    with pytest.raises(ValueError, match=r"holds no CIFAR-10"):
        cifar(tmp_path / "nowhere").pools()
    with pytest.raises(ValueError, match=r"data\.root=/path"):
        cifar(None).pools()


def test_training_batches_of_which_one_is_missing_are_an_error_and_not_fewer_images(tmp_path):
    write_batches(tmp_path / "batches")
    (tmp_path / "batches" / "data_batch_2").unlink()
    with pytest.raises(ValueError, match="nor data_batch_2"):
        cifar(tmp_path / "batches").pools()


@pytest.mark.parametrize("own", [True, False])
def test_a_folder_with_evaluation_images_only_serves_both_uses(data_root, tmp_path, own):
    excerpt(data_root / "cifar10_dev5000.npz", tmp_path / "cifar10_dev5000.npz", 30)
    data = cifar(tmp_path, tmp_path if own else None)
    data.prepare(CONFIG, 10, seed=0, calibration_batch_size=8)
    assert len(data.evaluation) == 20
    assert not set(data.calibration.ids) & set(data.evaluation.ids)


def test_a_network_with_the_classes_in_another_order_is_refused():
    class Named(nn.Module):
        names = sorted(NAMES, reverse=True)

        def forward(self, x):
            return x

    data = Cifar10(None, None, 1, 0, False, None)
    with pytest.raises(ValueError, match=r"class 0 is 'airplane' .* but 'truck' in model net"):
        data.check_network(Named(), "net", torch.zeros(1, 10))

"""What every classification data set does with its pools, on images made of numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.classification import ClassificationData
from evaluation.samples import Samples

CONFIG = {
    "input_size": (3, 4, 4),
    "interpolation": "bilinear",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "crop_pct": 1.0,
}


def encode(name: str) -> bytes:
    """Image number i: 16 pixels of value i."""
    return bytes([int(name.rpartition("#")[2])]) * 16


def decode(blob: bytes) -> Image.Image:
    return Image.frombytes("L", (4, 4), blob).convert("RGB")


def numbered(name: str, numbers: range) -> Samples:
    return Samples(
        ids=tuple(f"{name}#{i}" for i in numbers),
        labels=tuple(i // 10 for i in numbers),
        blob=encode,
        decode=decode,
        sizes=(16,) * len(numbers),
    )


class Numbers(ClassificationData):
    """Calibration pool 0..99; evaluation pool 50..199: half of the former is in the latter."""

    classes = 20

    def pools(self) -> tuple[Samples, Samples]:
        return numbered("train", range(100)), numbered("val", range(50, 200))


def numbers(**settings) -> Numbers:
    defaults = {"batch_size": 32, "workers": 0, "skip_bad": False, "images": None}
    return Numbers(None, None, **(defaults | settings))


def prepared(count: int = 40, seed: int = 0, batch: int = 16, config=CONFIG, **settings) -> Numbers:
    data = numbers(**settings)
    data.prepare(config, count, seed, batch)
    return data


def number(ids: tuple[str, ...]) -> list[int]:
    return [int(name.rpartition("#")[2]) for name in ids]


@pytest.mark.parametrize("count", [1, 40, 100])
def test_no_evaluation_image_was_chosen_for_calibration_and_no_other_is_missing(count):
    data = prepared(count)
    chosen = number(data.calibration.ids)
    assert len(set(chosen)) == count
    assert number(data.evaluation.ids) == sorted(set(range(50, 200)) - set(chosen))


def test_the_seed_alone_decides_the_choice():
    ids = prepared(seed=3).calibration.ids
    for same in (
        prepared(seed=3, batch=1),
        prepared(seed=3, batch_size=1),
        prepared(seed=3, images=9),
    ):
        assert same.calibration.ids == ids
    assert prepared(seed=4).calibration.ids != ids


def test_preparing_twice_chooses_from_the_whole_pool_again():
    data = prepared(seed=3)
    data.prepare(CONFIG, 40, 5, 16)
    assert data.calibration.ids == prepared(seed=5).calibration.ids


def test_a_limit_on_the_images_takes_them_from_every_class():
    data = prepared(100, images=10)
    assert data.evaluation.labels == tuple(range(10, 20))
    assert len(prepared(images=10_000).evaluation) == len(prepared().evaluation)


def test_batches_hold_images_and_labels_in_the_chosen_order():
    data = prepared()
    batches = list(data.calibration_loader())
    assert all(len(batch) == 2 for batch in batches)
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    assert [len(b[1]) for b in batches] == [16, 16, 8]
    assert (x.dtype, y.dtype, x.shape) == (torch.float32, torch.int64, (40, 3, 4, 4))
    assert (x[:, 0, 0, 0] * 255).round().int().tolist() == number(data.calibration.ids)
    assert y.tolist() == list(data.calibration.labels)


@pytest.mark.parametrize("start", [0, 16, 39, 40])
def test_calibration_goes_on_at_the_image_where_it_stopped(start):
    data = prepared()
    seen = [round(float(v) * 255) for x, _ in data.calibration_loader(start) for v in x[:, 0, 0, 0]]
    assert seen == number(data.calibration.ids)[start:]


def test_copies_are_fitted_to_but_neither_compared_on_nor_evaluated():
    plain, data = prepared(), numbers()
    data.prepare(CONFIG, 40, 0, 16, copies=2)
    fitted = torch.cat([x for x, _ in data.fitting_loader()])
    assert len(fitted) == 120 and torch.equal(fitted[:40], _all(plain.fitting_loader()))
    assert torch.equal(fitted[33:], _all(data.fitting_loader(33)))
    assert torch.equal(_all(data.calibration_loader()), _all(plain.calibration_loader()))
    assert data.evaluation_key == plain.evaluation_key
    assert data.calibration_key != plain.calibration_key


def _all(loader) -> torch.Tensor:
    return torch.cat([x for x, _ in loader])


def test_loader_processes_give_the_same_batches():
    plain, parallel = prepared(workers=0), prepared(workers=2)
    for (x, y), (u, v) in zip(plain.test_dataloader(), parallel.test_dataloader(), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_the_transform_is_the_models_own():
    half = dict(CONFIG, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), input_size=(3, 2, 2))
    plain, other = prepared(), prepared(config=half)
    x, u = next(iter(plain.test_dataloader()))[0], next(iter(other.test_dataloader()))[0]
    assert u.shape[2:] == (2, 2)
    torch.testing.assert_close(u, (x[:, :, :2, :2] - 0.5) / 0.25)


def test_keys_move_with_the_images_and_the_transform_and_with_nothing_else():
    data = prepared()
    assert data.calibration_key == prepared(batch=3, batch_size=5, images=7).calibration_key
    assert data.evaluation_key == prepared(batch=3, batch_size=5).evaluation_key
    assert data.described(True) != prepared(batch_size=5).described(True)
    assert data.described(False) == prepared(batch_size=5, workers=2, images=7).described(False)
    changed = [prepared(seed=1), prepared(90), prepared(config=dict(CONFIG, crop_pct=0.9))]
    for other in changed:
        assert other.calibration_key != data.calibration_key
        assert other.evaluation_key != data.evaluation_key
    assert prepared(images=7).evaluation_key != data.evaluation_key


def test_lists_instead_of_tuples_in_the_config_do_not_move_the_key():
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in CONFIG.items()}
    assert prepared(config=listed).calibration_key == prepared().calibration_key


def test_more_calibration_images_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"calibrate\.images=101 must lie in 1\.\.100"):
        prepared(101)


def test_labels_out_of_range_are_counted_and_the_first_few_named():
    data = numbers()
    data.classes = 15
    expected = r"50 of 150 evaluation .*0\.\.14: val#150 has 15, .*val#154 has 15 \.\.\."
    with pytest.raises(ValueError, match=expected):
        data.prepare(CONFIG, 10, 0, 16)


def test_an_empty_pool_is_an_error(monkeypatch):
    monkeypatch.setattr(
        Numbers, "pools", lambda self: (numbered("a", range(0)), numbered("b", range(5)))
    )
    with pytest.raises(ValueError, match="no calibration images"):
        prepared(1)


def test_calibrating_on_all_evaluation_images_is_an_error(monkeypatch):
    pool = numbered("a", range(9))
    monkeypatch.setattr(Numbers, "pools", lambda self: (pool, pool))
    with pytest.raises(ValueError, match="nothing is left to evaluate on"):
        prepared(9)


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"workers": -1}, {"images": 0}])
def test_settings_out_of_range_are_refused_before_any_file_is_read(setting):
    with pytest.raises(ValueError, match=rf"data\.{next(iter(setting))}="):
        numbers(**setting)


def test_no_setting_has_a_default_in_python():
    with pytest.raises(TypeError, match="batch_size"):
        Numbers(None, None)


def test_the_same_images_in_two_pools_are_recognised_by_their_bytes():
    data = prepared(100)
    values = np.array([decode(encode(n)).getpixel((0, 0))[0] for n in data.evaluation.ids])
    assert values.min() == 100  # 50..99 lie in both pools, as train#i and val#i


def test_the_divergence_that_is_trained_is_the_kl_that_is_reported():
    from evaluation.fidelity import logits_distance, softmax_divergence

    f, q = (torch.randn(6, 5, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    each = softmax_divergence(f, q)
    assert float(each.mean()) == pytest.approx(logits_distance(f, q).figures()["kl"], rel=1e-5)
    pixels = softmax_divergence(f.T[None, :, :, None], q.T[None, :, :, None])
    torch.testing.assert_close(pixels.flatten(), each)

"""Decoded samples are decoded once, are nobody else's, and take no more memory than there is."""

from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from evaluation import image_cache
from evaluation.cifar import Cifar10
from evaluation.datasets import DecodedDataset, loader
from evaluation.digits import Digits
from evaluation.image_cache import ImageCache
from evaluation.imagenet import ImageNet
from evaluation.samples import Samples, decode_file

CONFIG = {
    "input_size": (3, 8, 8), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3,
    "crop_pct": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(image_cache, "cache", ImageCache())


@pytest.fixture
def asked():
    """How often each sample was decoded."""
    return Counter()


def samples(asked, names=("a", "b", "c"), moved=0) -> Samples:
    def decode(blob: bytes) -> str:
        asked[blob.decode()] += 1
        return blob.decode()

    return Samples(
        ids=tuple(names),
        labels=tuple(range(len(names))),
        blob=lambda name: bytes([ord(name) + moved]),
        decode=decode,
        sizes=(1,) * len(names),
    )


def view(image: str, label: int) -> tuple[torch.Tensor, int]:
    return torch.full((4,), float(ord(image))), label


def everything(images: DecodedDataset, workers: int = 0) -> list[float]:
    return [float(x) for batch in loader(images, workers, 2) for x in batch[0][:, 0]]


def test_each_sample_is_decoded_once_whatever_part_of_them_is_asked_for(asked):
    images = samples(asked)
    whole = DecodedDataset(images, view)
    assert everything(whole) == everything(whole) == [97, 98, 99]
    assert everything(DecodedDataset(images.take([2, 0]), view)) == [99, 97]
    assert asked == {"a": 1, "b": 1, "c": 1}


def test_other_views_and_other_files_have_samples_of_their_own(asked):
    def darker(image: str, label: int) -> tuple[torch.Tensor, int]:
        x, y = view(image, label)
        return -x, y

    plain = samples(asked)
    assert everything(DecodedDataset(plain, view)) == [97, 98, 99]
    assert everything(DecodedDataset(plain, darker)) == [-97, -98, -99]
    moved = samples(asked, moved=1)
    assert everything(DecodedDataset(moved, view)) == [98, 99, 100]


def test_an_image_that_has_changed_between_two_jobs_is_decoded_again(tmp_path):
    def shade():
        data = ImageNet(str(tmp_path), None, 2, 0, False, None, 2)
        data.prepare(CONFIG, 1, 0, 1)
        return float(next(iter(data.test_dataloader()))[0].mean())

    for name, colour in (("a", 0), ("b", 100)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (colour,) * 3).save(tmp_path / name / "1.bmp")
    before = shade()
    for path in tmp_path.glob("*/1.bmp"):
        path.write_bytes(path.read_bytes().replace(b"\x00\x00\x00" * 8, b"\xff\xff\xff" * 8))
        path.write_bytes(path.read_bytes().replace(b"ddd" * 8, b"\xf0\xf0\xf0" * 8))
    assert shade() > before + 0.5


def test_a_batch_that_is_changed_in_place_changes_no_sample(asked):
    images = DecodedDataset(samples(asked), view)
    for batch in loader(images, 0, 1):
        batch[0].zero_()
    assert everything(images) == [97, 98, 99]


def test_no_more_is_kept_than_there_is_room_for_and_what_came_first_stays(asked, monkeypatch):
    monkeypatch.setattr(image_cache, "LIMIT", 2 * 16)  # two samples of four float32
    monkeypatch.setattr(image_cache, "cache", ImageCache())
    images = DecodedDataset(samples(asked), view)
    for _ in range(3):
        assert everything(images) == [97, 98, 99]
    assert asked == {"a": 1, "b": 1, "c": 3}


def test_what_a_job_has_not_asked_for_is_gone_when_the_next_one_begins(asked):
    images = samples(asked)
    everything(DecodedDataset(images, view))
    image_cache.cache.renew()
    everything(DecodedDataset(images.take([0]), view))
    image_cache.cache.renew()
    everything(DecodedDataset(images, view))
    assert asked == {"a": 1, "b": 2, "c": 2}


def test_room_is_given_back_when_samples_go(asked, monkeypatch):
    monkeypatch.setattr(image_cache, "LIMIT", 16)
    monkeypatch.setattr(image_cache, "cache", ImageCache())
    images = samples(asked)
    everything(DecodedDataset(images.take([0]), view))
    for _ in range(2):
        image_cache.cache.renew()
    for _ in range(2):
        everything(DecodedDataset(images.take([1]), view))
    assert asked == {"a": 1, "b": 1}


def test_a_full_memory_keeps_nothing(asked, monkeypatch):
    monkeypatch.setattr(
        image_cache.psutil, "virtual_memory", lambda: type("Free", (), {"available": 0})
    )
    image_cache.cache.renew()
    images = DecodedDataset(samples(asked), view)
    assert everything(images) == everything(images) == [97, 98, 99]
    assert asked == {"a": 2, "b": 2, "c": 2}


def test_loader_processes_give_the_same():
    data = Digits(None, None, 50, 0, False, 120)
    data.prepare(CONFIG, 40, 0, 20)
    alone = torch.cat([x for x, _ in data.test_dataloader()])
    data.workers = 2
    shared = torch.cat([x for x, _ in data.test_dataloader()])
    assert torch.equal(alone, shared) and len(alone) == 120


def test_the_jobs_of_a_sweep_decode_a_real_data_set_once(data_root):
    passes = []
    decode = Mock(side_effect=decode_file)
    for mean in (0.5, 0.5, 0.4):  # three jobs, the last one with another network
        data = Cifar10(str(data_root), None, 64, 0, False, 100)
        data.prepare(CONFIG | {"input_size": (3, 32, 32), "mean": (mean,) * 3}, 30, 0, 10)
        decode.reset_mock()
        data.evaluation = replace(data.evaluation, decode=decode)
        first, again = (torch.cat([x for x, _ in data.test_dataloader()]) for _ in range(2))
        assert torch.equal(first, again)
        passes.append((decode.call_count, first))
    assert [n for n, _ in passes] == [100, 0, 100]
    assert torch.equal(passes[0][1], passes[1][1])
    assert (passes[2][1] - passes[0][1]).min() > 0.1

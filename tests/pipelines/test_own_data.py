"""Own folders and own networks through the whole chain, as they come."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

from evaluation import digits
from pipelines.models.digits import TrainDigits

QUICK = ("method=rtn", "baseline.budget=0", "report.heatmaps=0", "calibrate.images=64")
CONFIG = {
    "input_size": [3, 8, 8], "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3,
    "crop_pct": 1.0, "crop_mode": "center",
}  # fmt: skip
NETWORKS = """
import torch
import torch.nn.functional as F
from pipelines.models.digits import DigitsNet

class Drop(DigitsNet):
    def forward(self, x):
        x = self.pointwise(self.depthwise(self.stem(x[:, :1])))
        return self.classifier(F.dropout(self.last(self.down(x)).mean((2, 3)), 0.5))

class Dict(DigitsNet):
    def forward(self, x):
        return {"aux": x, "out": super().forward(x)}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The digits as files of 16 bits in folders without zeros before their numbers."""
    root, (pool, held_out) = tmp_path_factory.mktemp("digits"), digits.split()
    for part, samples, count in (("train", pool, 100), ("val", held_out, 150)):
        for i, name in enumerate(samples.ids[:count]):
            place = root / part / f"{samples.labels[i]}"
            place.mkdir(parents=True, exist_ok=True)
            grey = np.asarray(samples.decode(samples.blob(name)))[..., 0]
            Image.fromarray(grey.astype(np.uint16) * 257).save(place / f"{i}.png")
    return root


def test_a_folder_of_classes_needs_no_number_of_them(obliq, folder):
    found = obliq("model=digits", "data=imagefolder", f"data.root={folder}", *QUICK)
    assert found.status == 0, found.text
    assert found.results["n_images"] == 150 and found.results["float"]["top1"] > 95
    assert found.results["doubts"] == [] and "guessing" not in found.text


def tells_first(found, expected):
    """A run has one doubt, in all its places, and on the screen before the calibration."""
    assert found.status == 0, found.text
    (doubt,) = found.results["doubts"]
    assert expected in doubt
    told = " ".join(found.text.split())
    assert told.index(expected) < told.index("✓ calibrate")
    assert doubt in " ".join((found.folder / "report.html").read_text().split())


def test_labels_of_another_order_are_told_before_anything_is_quantized(obliq, folder, tmp_path):
    swapped = tmp_path / "swapped"
    for part in ("train", "val"):
        for digit in range(10):
            (swapped / part).mkdir(parents=True, exist_ok=True)
            (swapped / part / str((digit + 1) % 10)).symlink_to(folder / part / str(digit))
    found = obliq("model=digits", "data=imagefolder", f"data.root={swapped}", *QUICK)
    tells_first(found, "of 150 images, no more than guessing among 10 classes")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the digits network."""
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save_file(TrainDigits(10, 64, 0.01, 0.01, 0, CONFIG).run().tensors, path)
    return path


@pytest.fixture
def own(obliq, weights, tmp_path, monkeypatch):
    """own("Class") -> Outcome of a network of own code on the digits."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)

    def run(name):
        model = {
            "_target_": "pipelines.models.checkpoint.CheckpointModel",
            "name": name,
            "build": {"_target_": f"own_networks.{name}", "_partial_": True},
            "checkpoint": str(weights),
            "data_config": CONFIG,
        }
        (tmp_path / "conf" / "model").mkdir(parents=True)
        (tmp_path / "conf" / "model" / "own.yaml").write_text(yaml.safe_dump(model))
        words = ("model=own", "data=digits", "--config-dir", str(tmp_path / "conf"))
        return obliq(*words, *QUICK)

    return run


def test_a_dropout_that_is_left_on_is_told_before_anything_is_quantized(own):
    found = own("Drop")
    tells_first(found, "different outputs for the same images")


def test_a_network_that_gives_a_dict_is_quantized_by_its_logits(own):
    found = own("Dict")
    assert found.status == 0, found.text
    assert "of the network's outputs, 'out' of a dict is used" in found.text
    assert found.results["float"]["top1"] > 95 and found.results["doubts"] == []

"""Networks and data sets of a few kilobytes for every task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

DETECTOR = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2], 1, Detect, [nc]]
"""
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "not", "at")


class Segmenter(nn.Module):
    """[b, 3, h, w] -> logits [b, classes, h, w]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel."""
        logits: Tensor = self.last(self.norm(self.first(x)).relu())
        return logits


def detection(folder: Path) -> list[str]:
    """Overrides for a random detector on images with rectangles, one of which is damaged."""
    draw, root = np.random.default_rng(0), folder / "coco"
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": 3, "name": "thing"}, {"id": 90, "name": "other"}]
    for split, count in (("train2017", 4), ("val2017", 5)):
        (root / "images" / split).mkdir(parents=True)
        images, boxes = [], []
        for i in range(count):
            pixels = draw.integers(0, 80, (48, 64, 3), dtype=np.uint8)
            pixels[10:30, 5 + i : 40 + i, i % 3] = 250
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.jpg")
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48})
            box = {"bbox": [5 + i, 10, 35, 20], "area": 700, "iscrowd": 0}
            boxes.append({"id": i, "image_id": i, "category_id": 3 if i % 2 else 90, **box})
        listing = {"images": images, "annotations": boxes, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(listing))
    (root / "images" / "val2017" / "4.jpg").write_bytes(b"no image")
    (folder / "tiny.yaml").write_text(DETECTOR)
    model = ["model=yolo", f"model.name={folder / 'tiny.yaml'}", "model.size=64"]
    return [*model, "data=coco", f"data.root={root}", "data.skip_bad=true", "calibrate.images=4"]


def segmentation(folder: Path) -> list[str]:
    """Overrides for a random network on photographs with masks of two classes."""
    draw, root = np.random.default_rng(0), folder / "voc"
    for name in ("JPEGImages", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    for i in range(8):
        pixels = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{i}.jpg")
        if i < 4:
            mask = np.zeros((32, 32), np.uint8)
            mask[8:24, 4 + i : 20] = 15
            mask[0, 0] = 255
            Image.fromarray(mask).save(root / "SegmentationClass" / f"{i}.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(Segmenter(21).state_dict(), folder / "tiny.safetensors")
    return [
        "model=espnetv2",
        f"model.build._target_={Segmenter.__module__}.Segmenter",
        f"model.checkpoint={folder / 'tiny.safetensors'}",
        "model.data_config.input_size=[3,32,32]",
        "data=voc",
        f"data.root={root}",
        "calibrate.images=4",
    ]


def text(folder: Path) -> list[str]:
    """Overrides for a random BERT of two layers on sentences of its few words."""
    from transformers import BertConfig, BertForSequenceClassification

    draw, root = np.random.default_rng(0), folder / "sentences"
    sizes = {"hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 12}
    config = BertConfig(vocab_size=len(WORDS), num_hidden_layers=2, num_attention_heads=2, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(root)
    (root / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    for name, count in (("train", 24), ("dev", 30)):
        sentences = [" ".join(draw.choice(WORDS[5:], draw.integers(1, 9))) for _ in range(count)]
        rows = [f"{sentence}\t{i % 2}" for i, sentence in enumerate(sentences)]
        (root / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    model = ["model=transformers", f"model.checkpoint={root}", "model.max_length=12"]
    return [*model, "data=sst2", f"data.root={root}", "calibrate.images=24"]

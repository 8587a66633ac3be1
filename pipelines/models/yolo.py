"""Detectors that `ultralytics.YOLO(...)` loads, without box decoding and NMS."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models.checkpoint import existing
from pipelines.models.naming import named
from pipelines.models.network import Network


class RawDetector(nn.Module):
    """An ultralytics detection network up to its last convolutions.

    Its head stays in training mode, in which it returns raw maps. All other modules, including the
    head's BatchNorms, follow `train` and `eval`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(False)

    @property
    def head(self) -> Any:
        """The last module, ultralytics' Detect."""
        return self.model.model[-1]  # type: ignore[index]

    def train(self, mode: bool = True) -> RawDetector:
        """Set the mode of all modules except the head itself."""
        super().train(mode)
        self.head.training = True
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """[b, 3, h, w] RGB / 255 -> raw maps [b, 4 * bins + classes, h_i, w_i], one per level."""
        raw = self.model(x)
        raw = raw.get("one2many", raw)
        sizes = [level.shape[2:] for level in raw["feats"]]
        both = torch.cat((raw["boxes"], raw["scores"]), 1)
        parts = torch.split(both, [h * w for h, w in sizes], dim=2)
        return [
            part.reshape(*part.shape[:2], *size) for part, size in zip(parts, sizes, strict=True)
        ]

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Raw maps -> [b, 4 + classes, n], by the head's own decoding."""
        both = torch.cat([level.flatten(2) for level in maps], dim=2)
        widths = [both.shape[1] - self.head.nc, self.head.nc]
        boxes, scores = torch.split(both, widths, dim=1)
        decoded: Tensor = self.head._inference({"boxes": boxes, "scores": scores, "feats": maps})
        return decoded


@dataclass(frozen=True)
class YoloModel:
    """An ultralytics detector by name or file: "yolov8n.pt", "yolov5su.pt", "yolo11s.yaml", ...

    ultralytics unpickles the file, which can run any code in it: use only files that you trust.

    Attributes:
        name: name in messages and reports; if `checkpoint` is null, ultralytics finds or downloads
            it; null, or a name that belongs to other weights: the checkpoint's (see `naming`).
        checkpoint: local file; null: `name`.
        size: height and width of the input, a multiple of 32.
    """

    name: str | None
    checkpoint: str | None
    size: int

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ValueError(f"model.size={self.size} must be a multiple of 32")

    def check(self) -> None:
        """Raise if no model is named or the file is missing."""
        if self.checkpoint is not None:
            existing(self.checkpoint)
        elif self.name is None:
            raise ValueError(
                "which detector? Give model.name=yolov8n.pt or another that ultralytics has, or a "
                "file: model.checkpoint=FILE"
            )

    def load(self, store: object) -> Network:
        """The network in float32; `store` is unused.

        Raises:
            ValueError: ultralytics cannot load it, or it is not a detector.
        """
        self.check()
        source = str(existing(self.checkpoint)) if self.checkpoint is not None else str(self.name)
        model = _loaded(source)
        task = getattr(model, "task", None)
        head = getattr(model.model, "model", [None])[-1]
        if task != "detect" or not hasattr(head, "_inference"):
            raise ValueError(
                f"model {source} has the task {task!r} and the head {type(head).__name__}: use a "
                "detector with a Detect head"
            )
        if head.end2end:
            if head.cv2 is None:
                raise ValueError(
                    f"model {source} has only an end-to-end (NMS-free) head, which cannot be "
                    "evaluated here. Use the checkpoint from before the model was fused"
                )
            head.end2end = False  # use the one-to-many head, with NMS
        config = {
            "input_size": [3, self.size, self.size],
            "interpolation": "bilinear",
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
            "crop_pct": 1.0,
            "crop_mode": "letterbox",
        }
        name = named(self.name, self.checkpoint)
        return Network.of(RawDetector(model.model.float()), name, config)


def _loaded(source: str) -> Any:
    """ultralytics.YOLO(source), quietly."""
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            from ultralytics import YOLO

            return YOLO(source)
    except ModuleNotFoundError as err:
        if err.name != "ultralytics":
            raise
        raise ValueError(
            f"model {source} needs ultralytics, which is not installed: pip install ultralytics "
            "(licence AGPL-3.0, see docs/licence.md), or use a detector that does not need it, "
            "such as model=yolov5n"
        ) from err
    except Exception as err:  # unpickling or downloading can fail in any way
        raise ValueError(
            f"ultralytics cannot load {source}: {str(err).strip() or type(err).__name__}. Set "
            "model.checkpoint=FILE to a detector that ultralytics.YOLO(FILE) loads"
        ) from err

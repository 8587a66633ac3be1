"""Stage: draw the predictions of the float and the quantized network on evaluation images."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluation.images import ImageData
from evaluation.samples import evenly
from pipelines.machine.machine import Machine
from pipelines.store.artifacts import Artifact, Keyed

QUALITY = 85  # JPEG quality


@dataclass(frozen=True)
class Pictures:
    """Predictions side by side, for tasks with predictions that can be drawn (boxes, masks).

    Attributes:
        count: number of evaluation images, evenly spaced; 0 for none.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"pictures.count={self.count} must be at least 0")

    def run(
        self,
        reference: Keyed[nn.Module],
        quantized: Keyed[nn.Module],
        data: Keyed[ImageData],
        machine: Machine,
    ) -> Artifact:
        """Tensors: bytes of a JPEG, uint8 [n], by picture index. Record: image ids."""
        task = data.value
        networks = {"float": reference.value, "quantized": quantized.value}
        chosen = evenly(self.count, len(task.evaluation))
        drawn: dict[str, Tensor] = {}
        with torch.inference_mode(), machine.screen.bar("pictures", len(chosen)) as advance:
            for picture_index, index in enumerate(chosen):
                picture = task.picture(networks, index)
                if picture is None:  # a task without pictures
                    break
                jpeg = io.BytesIO()
                picture.save(jpeg, "JPEG", quality=QUALITY, subsampling=0)  # letters stay sharp
                data_bytes = torch.frombuffer(jpeg.getbuffer(), dtype=torch.uint8)
                drawn[f"{picture_index:02d}"] = data_bytes
                advance(1)
        names = [task.evaluation.ids[i] for i in chosen]
        return Artifact(drawn, {"images": dict(zip(drawn, names, strict=False))})

"""Network inputs that a program has already made: tensors, without files and preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evaluation.classification import ClassificationData
from evaluation.datasets import Batches, DecodedDataset, loader
from evaluation.samples import Samples
from evaluation.task import View


@dataclass(frozen=True, eq=False)
class Inputs:
    """The bytes of the input with the id "input#17"."""

    tensors: Sequence[Tensor] = field(metadata={"key": False})  # the digests tell them

    def __call__(self, name: str) -> bytes:
        return self.tensors[int(name.removeprefix("input#"))].numpy().tobytes()


@dataclass(frozen=True)
class Decode:
    """Bytes -> an input of this shape and type."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self, blob: bytes) -> Tensor:
        return torch.frombuffer(bytearray(blob), dtype=self.dtype).reshape(self.shape)


def unchanged(x: Tensor, label: int) -> tuple[Tensor, int]:
    """The view of inputs that are made already."""
    return x, label


class TensorData(ClassificationData):
    """Inputs of equal shapes; all of them are both calibration and evaluation data, in this order.

    Args:
        tensors: inputs [...] of one image each, on the CPU.
        labels: a class index for each; None: there are none, and metrics mean nothing.
        batch_size: inputs per evaluation batch.

    Raises:
        ValueError: there are none, their shapes differ, or there is not one label for each.
    """

    classes = 0  # whatever the network has
    kind = "inputs"

    def __init__(
        self, tensors: Sequence[Tensor], labels: Sequence[int] | None, batch_size: int
    ) -> None:
        super().__init__(None, None, batch_size, 0, False, None)
        shapes = {(tuple(x.shape), x.dtype) for x in tensors}
        if len(shapes) != 1:
            found = ", ".join(sorted(f"{list(shape)} {dtype}" for shape, dtype in shapes))
            raise ValueError(f"images must have one shape and type: {found or 'there are none'}")
        if labels is not None and len(labels) != len(tensors):
            raise ValueError(f"{len(labels)} labels for {len(tensors)} images")
        self.settings = {}  # the tensors are in the key by their content
        inputs = [x.detach().cpu().contiguous() for x in tensors]
        self._samples = Samples(
            ids=tuple(f"input#{i}" for i in range(len(inputs))),
            labels=tuple(labels or [0] * len(inputs)),
            blob=Inputs(inputs),
            decode=Decode(tuple(inputs[0].shape), inputs[0].dtype),
            sizes=tuple(x.numel() * x.element_size() for x in inputs),
        )

    def inputs_loader(self) -> Batches:
        """All inputs with their labels, in order; needs no `prepare`."""
        return loader(DecodedDataset(self._samples, unchanged), 0, self.batch_size)

    def pools(self) -> tuple[Samples, Samples]:
        return self._samples, self._samples

    def view(self, data_config: Mapping[str, Any]) -> View:
        return unchanged

    def summary(self) -> str:
        """Number of calibration inputs, and of those available."""
        return f"{len(self.calibration)} of {len(self._samples)} inputs for calibration"

    def check_labels(self, samples: Samples, use: str) -> None:
        """The network tells the number of classes; `metrics` compares."""

    def check_input(self, data_config: Mapping[str, Any]) -> None:
        """Anything goes: the network has been called with these."""

    def chosen(
        self,
        pool: Samples,
        evaluation: Samples,
        images: int | None,
        most: int,
        seed: int,
    ) -> tuple[Samples, Samples]:
        """The first ones; they stay evaluation data, of which a quantization takes none."""
        count = min(images or most, len(pool))
        return pool.take(range(count)), evaluation


def collected(images: Iterable[Any], most: int | None) -> tuple[list[Tensor], list[int] | None]:
    """Single inputs, and their labels, of a loader, a list or a tensor.

    Args:
        images: batches [b, ...], or (batch, labels [b], ...) as loaders give them, a dict with
            "pixel_values" or "image" and "labels" or "label"; or one tensor [n, ...].
        most: maximum number; None: all.

    Raises:
        ValueError: an item is none of these.
    """
    tensors: list[Tensor] = []
    labels: list[int] = []
    for item in [images] if isinstance(images, Tensor) else images:
        x, y = _parts(item)
        tensors += list(x)
        labels += [] if y is None else [int(label) for label in y]
        if most is not None and len(tensors) >= most:
            break
    return tensors[:most], labels[:most] if labels else None


def _parts(item: Any) -> tuple[Tensor, Any]:
    if isinstance(item, Mapping):
        x = next((item[k] for k in ("pixel_values", "image", "input_ids") if k in item), None)
        y = next((item[k] for k in ("labels", "label") if k in item), None)
    elif isinstance(item, tuple | list) and item:
        x, y = item[0], item[1] if len(item) > 1 else None
    else:
        x, y = item, None
    if not isinstance(x, Tensor) or x.dim() < 2:
        found = f"a tensor {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"images must be batches [b, ...] of the network's input, alone or with labels [b], "
            f"not {found}. Add the batch dimension to a single image: x[None]"
        )
    whole = isinstance(y, Tensor) and y.dim() == 1 and not y.is_floating_point()
    return x, y if whole else None

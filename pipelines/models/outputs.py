"""Networks whose output is a dict, a tuple or a dataclass: the tensor in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

PREFERRED = ("logits", "out")  # of transformers, and of torchvision's segmentation models


class TakeTensor:
    """A forward hook that replaces a network's output by the tensor in it.

    It takes `logits`, else `out`, else the first tensor. An output that is a tensor, or holds none,
    stays as it is.

    Attributes:
        taken: what was taken, for messages: "'out' of a dict"; "" if nothing was replaced.
    """

    taken = ""

    def __call__(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        entries = _entries(outputs)
        tensors = [name for name, value in entries.items() if isinstance(value, Tensor)]
        if isinstance(outputs, Tensor) or not tensors:
            return None
        name = next((name for name in PREFERRED if name in tensors), tensors[0])
        self.taken = f"{name!r} of a {type(outputs).__name__}"
        return entries[name]


def _entries(outputs: Any) -> dict[Any, Any]:
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        return {f.name: getattr(outputs, f.name) for f in dataclasses.fields(outputs)}
    if hasattr(outputs, "_asdict"):
        return dict(outputs._asdict())
    return dict(enumerate(outputs)) if isinstance(outputs, tuple | list) else {}

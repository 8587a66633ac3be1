"""Data that stages exchange: tensors, a JSON record, and the store key of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors import safe_open
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Artifact:
    """The result of a stage.

    Attributes:
        tensors: tensors by name; an artifact from the store reads each one on access.
        record: anything that JSON can represent.
        key: key in the store, set by the store.
        cached: whether it was in the store before this run needed it.
        seconds: compute time, in this run or in the run that stored it.
        versions: of the libraries that computed it, by name, set by the store.
    """

    tensors: Mapping[str, Tensor]
    record: dict[str, Any]
    key: str = ""
    cached: bool = False
    seconds: float = field(default=0.0, compare=False)
    versions: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, eq=False)
class Keyed(Generic[T]):
    """An input of a stage, with a key of what the stage's result depends on.

    An empty key means that the input does not change the result (a cache, say).
    """

    value: T
    key: str


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file, read from disk on every access."""

    def __init__(self, path: Path) -> None:
        """Read the names only."""
        self.path = path
        with safe_open(path, "pt") as file:
            self._names = tuple(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

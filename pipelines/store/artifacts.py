"""What travels between stages: tensors, a JSON record, and the key under which both are stored."""

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
        tensors: by name; read from disk one by one when the artifact comes from the store.
        record: whatever JSON can hold.
        key: set by the store.
        cached: it was in the store before this run asked for it.
        seconds: what computing it took, whenever that was.
    """

    tensors: Mapping[str, Tensor]
    record: dict[str, Any]
    key: str = ""
    cached: bool = False
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, eq=False)
class Keyed(Generic[T]):
    """An input of a stage with the key of the part of it that this stage depends on.

    An empty key means that the input does not change the result (a machine, a progress bar).
    """

    value: T
    key: str


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file; each is read when it is asked for and not kept."""

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
